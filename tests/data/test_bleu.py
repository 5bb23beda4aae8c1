"""BLEU against numbers counted by hand and those of the Perl script."""

from __future__ import annotations

import math

import pytest

from noisyexp.data.bleu import standard_bleu, tokenised_bleu

REFERENCE = "a b c d e f"


def test_identical_text_has_100() -> None:
    text = ["l&apos; homme est venu .", "je n&apos; ai pas d&apos; argent &amp; rien &quot; !"]
    for bleu in (tokenised_bleu(text, text), standard_bleu(text, text)):
        assert bleu.score == pytest.approx(100)
        assert bleu.brevity_penalty == 1 and bleu.precisions == pytest.approx((100,) * 4)


def test_counted_by_hand() -> None:
    """5/5 words, 3/4 pairs, 2/3 triples, 1/2 of four; 5 words for 6: exp(-1/5)."""
    bleu = tokenised_bleu(["a b c d f"], [REFERENCE])
    assert bleu.precisions == pytest.approx((100, 75, 200 / 3, 50))
    assert bleu.brevity_penalty == pytest.approx(math.exp(-0.2))
    assert bleu.score == pytest.approx(100 * math.exp(-0.2) * 0.25**0.25)
    assert (bleu.hypothesis_length, bleu.reference_length) == (5, 6)


def test_a_long_translation_has_no_penalty_and_repeats_do_not_count() -> None:
    """Of seven a one counts: 6/12, 5/11, 4/10, 3/9."""
    bleu = tokenised_bleu(["a a a a a a a b c d e f"], [REFERENCE])
    assert bleu.brevity_penalty == 1
    assert bleu.precisions == pytest.approx((50, 500 / 11, 40, 100 / 3))


def test_counts_of_a_corpus_are_added_up() -> None:
    """6 + 1 of 10 words, 5 + 0 of 8 pairs, 4 of 6, 3 of 4: not the mean of two sentences."""
    bleu = tokenised_bleu(["a b c d e f", "v x y z"], ["a b c d e f", "v w w w"])
    assert bleu.precisions == pytest.approx((70, 62.5, 200 / 3, 75))
    assert bleu.score == pytest.approx(100 * (0.7 * 0.625 * 2 / 3 * 0.75) ** 0.25)


def test_no_smoothing_and_case_counts() -> None:
    assert tokenised_bleu(["a b c x"], ["a b c d"]).score == 0  # no four words match
    assert tokenised_bleu(["A b c d e f"], [REFERENCE]).precisions[0] == pytest.approx(500 / 6)
    # The standard form smooths: 1 / 2 of the one group of four.
    smoothed = standard_bleu(["a b c x"], ["a b c d"])
    assert smoothed.precisions == pytest.approx((75, 200 / 3, 50, 50))


TEXTS = {
    "reference": """\
Le chat gris dort sur la chaise près de la fenêtre .
Nous n&apos; avons pas encore reçu la lettre de notre voisine .
&quot; Demain , dit-il , il fera plus froid qu&apos; aujourd&apos; hui . &quot;
Trois enfants jouent au ballon dans la cour de l&apos; école .
Je voudrais un café &amp; deux croissants , s&apos; il vous plaît !
La route est fermée parce que la rivière a débordé cette nuit .
Qui a laissé la porte ouverte ?
Le train de 18 h 40 aura , une fois de plus , vingt minutes de retard .
Elle lit le même livre chaque été et elle rit aux mêmes pages .
Les prix &#91; hors taxes &#93; ont baissé de 3,5 % en un an .
""",
    "short": """\
Le chat gris dort sur une chaise près de la fenêtre .
Nous n&apos; avons pas reçu la lettre de la voisine .
Demain , dit-il , il fera plus froid qu&apos; aujourd&apos; hui .
Trois enfants jouent dans la cour de l&apos; école .
Je voudrais un café et deux croissants !
La route est fermée parce que la UNK a débordé .
Qui a ouvert la porte ?
Le train de 18 h 40 aura vingt minutes de retard .
Elle lit le même livre et rit aux mêmes pages .
Les prix ont baissé de 3,5 % en un an .
""",
    "long": """\
le chat gris , le chat gris dort sur la chaise à côté de la fenêtre de la chambre .
Nous avons encore la lettre , la lettre , la lettre de notre voisine qui n&apos; est pas reçue .
Demain il dit : &quot; il fera encore plus froid qu&apos; hier . &quot;
Dans la cour de l&apos; école jouent trois enfants avec le ballon rouge .
Je veux un café &amp; deux croissants , je vous prie , s&apos; il vous plaît .

Qui est-ce qui a laissé la porte de la maison grande ouverte ?
Le train aura , une fois de plus , vingt minutes de retard : celui de 18 h 40 .
Chaque été elle lit le même livre , chaque été elle rit aux mêmes pages .
Les prix [ hors taxes ] ont monté puis ont baissé de 3,5 % en un an et un jour .
""",
}
PERL = {
    "short": "BLEU = 56.42, 95.2/79.8/65.5/55.4 (BP=0.779, ratio=0.800, hyp_len=104, ref_len=130)",
    "long": "BLEU = 38.51, 64.5/43.8/32.1/24.2 (BP=1.000, ratio=1.192, hyp_len=155, ref_len=130)",
}
"""What Moses' multi-bleu.perl printed for two translations of ten sentences."""


@pytest.mark.parametrize("name", PERL)
def test_the_same_as_multi_bleu(name: str) -> None:
    """Escapes and UNK, a sentence without a translation, another case, doubled words."""
    bleu = tokenised_bleu(TEXTS[name].splitlines(), TEXTS["reference"].splitlines())
    ratio = bleu.hypothesis_length / bleu.reference_length
    precisions = "/".join(f"{precision:.1f}" for precision in bleu.precisions)
    assert PERL[name] == (
        f"BLEU = {bleu.score:.2f}, {precisions} (BP={bleu.brevity_penalty:.3f}, ratio={ratio:.3f}, "
        f"hyp_len={bleu.hypothesis_length}, ref_len={bleu.reference_length})"
    )


def test_escapes_and_a_stray_end_cost_points_only_in_the_tokenised_form() -> None:
    """An escape undone is another token: 4/5, 3/4, 2/3, 1/2. The standard form undoes all."""
    reference, other = "l&apos; eau est claire .", "l' eau est claire ."
    bleu = tokenised_bleu([other], [reference])
    assert bleu.precisions == pytest.approx((80, 75, 200 / 3, 50))
    assert standard_bleu(["a &quot; b c d"], ['a " b c d']).score == pytest.approx(100)
    stray = tokenised_bleu(["a b c d e f <eos>"], [REFERENCE])
    assert stray.precisions == pytest.approx((600 / 7, 500 / 6, 80, 75)) and stray.score < 81


def test_a_comma_is_a_token_of_its_own_in_the_standard_form_alone() -> None:
    """As one word 'b,' has no match: 3/4; as two: 5/5."""
    hypothesis, reference = ["a b, c d"], ["a b , c d"]
    assert tokenised_bleu(hypothesis, reference).precisions[0] == pytest.approx(75)
    assert standard_bleu(hypothesis, reference).score == pytest.approx(100)


def test_signatures_name_what_was_done() -> None:
    signatures = [bleu(["a"], ["a"]).signature for bleu in (tokenised_bleu, standard_bleu)]
    assert "tok:none" in signatures[0] and "smooth:none" in signatures[0]
    assert "tok:13a" in signatures[1] and "case:mixed" in signatures[1]
    assert str(tokenised_bleu(["a b c d f"], [REFERENCE])).startswith(
        "BLEU = 57.89, 100.0/75.0/66.7/50.0 (BP=0.819, hyp_len=5, ref_len=6; "
    )


def test_one_translation_for_each_reference() -> None:
    with pytest.raises(ValueError, match="1 hypotheses for 2 references"):
        tokenised_bleu(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="0 hypotheses"):
        standard_bleu([], [])
