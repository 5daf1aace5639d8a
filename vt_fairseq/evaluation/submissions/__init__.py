"""Predictions in the formats that the servers of TVQA, TVC and EPIC-Kitchens-55 take."""
