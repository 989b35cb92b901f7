"""The expert `edge`: DexiNed, written here and loading its authors' weights."""
