#!/bin/sh
# The paper's grid of Figure 8: 8 values of sigma, log-spaced from 0.01 to 1, for NANI and NANIS. The
# run with the least validation bits per character wins. Further arguments go to run.py:
#   sh noisyexp/tasks/ptb_char/sigma_grid.sh scale=cpu seed=0 threads=1
cd "$(dirname "$0")/../../.." || exit
exec "${PYTHON:-python}" run.py -m task=ptb_char act=nani,nanis \
    act.c=0.01,0.0193,0.0373,0.072,0.139,0.268,0.518,1 "$@"
