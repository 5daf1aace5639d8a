"""What ``vt-report`` writes: results and training logs as one page that needs nothing else.

folders -> found -> results (rows of each) and logs (curves) -> pictures -> page
"""
