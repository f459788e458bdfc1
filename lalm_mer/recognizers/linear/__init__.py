"""Linear models of functionals, pooled vectors and TF-IDF, fitted by scikit-learn."""
