"""Experts that speak of the whole photo: ``caption`` writes one, ``match`` judges those it has."""
