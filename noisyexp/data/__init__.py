"""What every data set needs: checked downloads and a vocabulary."""
