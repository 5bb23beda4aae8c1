"""What noisy units cost, beside torch's: `noisyexp bench layers`, `make bench`."""

from noisyexp.process import settle

settle()  # as in a run
