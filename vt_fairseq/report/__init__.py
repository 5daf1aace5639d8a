"""What ``vt-report`` writes: results and training logs as one page that needs nothing else.

folders -> content: results (the rows of each), logs (charts), pictures -> page
"""
