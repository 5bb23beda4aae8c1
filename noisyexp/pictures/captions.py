"""Captions of the figures that are made from run records: content, and what was inferred."""

from __future__ import annotations

CAPTIONS = {
    "fig5": (
        "One hidden layer on MNIST, trained with RMSProp. From top to bottom: negative "
        "log-likelihood of the training images with noise on (mean of an epoch), of the first "
        "10,000 of them in test mode, of the validation images, and the share of hidden units "
        "beyond the threshold. Left noise at the unit's output, right at its input; tanh and hard "
        "tanh in both. The paper's text names tanh, hard tanh and noisy units, the training with "
        "RMSProp and the negative log-likelihood. Inferred: which noisy units, epochs as x, sizes "
        "and rates. Ours: the logarithmic scale and all panels but the first."
    ),
    "fig6": (
        "Derivative of every hidden unit (a row a layer) in its input after training on a mixture "
        "of three Gaussians, NAN with alpha = 1 and the learned p above each panel, one draw of "
        "xi for each of 200 test points. Inside the thresholds it is exactly 1. The paper gives 3 "
        "layers of 8 units, the noise and alpha. Inferred: two dimensions, means and deviations "
        "of the three Gaussians, c = 1, sizes and rates. Ours: an axis that is linear between "
        "-0.1 and 0.1 and logarithmic beyond."
    ),
    "fig6-p": (
        "p of all hidden units before and after training, over the networks of all seeds. The "
        "paper has no such picture."
    ),
    "fig7": (
        "Value of every hidden unit against its input, in the network with half-normal noise "
        "(NAH), alpha = 1 and the learned p above each panel, one draw of xi for each test point. "
        "Outside the thresholds values lie between the hard unit's and the inside. Inferred: as "
        "in Figure 6."
    ),
    "fig8": (
        "Character-level Penn Treebank, one GRU layer, sequences of 200: bits per character of "
        "the training text with noise on, of the validation text without, and the share of gates "
        "and candidates beyond the threshold. The rows with hard units, noisy or not, lie on one "
        "another. The paper draws NAN, NANI and NANIS; sigma of "
        "the last two is the best of 8 values on validation. Inferred: bits per character over "
        "updates, and that its caption means NANI where it says NAN twice. Soft units and hard "
        "units without noise are ours."
    ),
    "fig9": (
        "Word-level Penn Treebank LSTM: validation perplexity by the formula of the 2015 code "
        "after each epoch, and the mean of the epoch's training perplexity, noise on. Values above "
        "150 are cut off. Diamonds, where there are any: the paper's end points in Table 2, for "
        "13 epochs. Inferred: which rows the paper draws, epochs as x. Ours: the lower panel."
    ),
    "fig10": (
        "Learning to execute: accuracy per character on validation programs of the last level, on "
        "the training programs of the present level, and that level. Diamonds, where there are "
        "any: the paper's end points in Table 1. Dashed: guessing from the place and the last "
        "character. Inferred: accuracy and not cost, updates as x."
    ),
    "fig11": (
        "Associative recall by a Neural Turing Machine: validation cost with the most items, all "
        "item counts and the fewest, the share of saturated units of the controller, and c. Every "
        "line is one run, as the mean would hide when learning sets in. Inferred: the unit of the "
        "paper's validation error, and which controller it has."
    ),
    "table3": (
        "Captions for Flickr8k with soft attention: negative log-likelihood of a caption of the "
        "validation images and of the training images, there with noise and dropout, after each "
        "pass. The paper has no such picture."
    ),
    "table4": (
        "English to French with attention: negative log-likelihood of a sentence of newstest2010 "
        "and of the training text, there with noise, over updates. The paper has no such picture."
    ),
    "table5": (
        "Counting the distinct values of a sequence: validation error, c of the noise and length "
        "of the training sequences, for the rows of Table 5. The paper has no such picture. Flat "
        "lines: always the most frequent answer, and two ways of counting smoothly."
    ),
}
