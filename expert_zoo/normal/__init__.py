"""Surface normals by NLL-AngMF (Bae et al., ICCV 2021): ``expert`` labels, ``network`` computes and loads the authors' weights."""
