"""Two parties, the same people, different columns: encrypted logistic regression and its parts."""
