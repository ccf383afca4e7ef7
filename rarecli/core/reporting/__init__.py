"""report.html: one self-contained page per result, written by the other rooms from their records."""
