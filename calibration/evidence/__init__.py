"""Public measurements of other people, read into observations, and the profiles fitted on them. The data are not part of this project."""
