"""From committed run records to tables and figures.

Tables and curves are made from run records (JSON), row files and deviation ledgers, and nothing
else, on any machine that holds the records. Figures 1 to 4, 6 and 7 also draw the units themselves.
"""

from noisyexp.results.records import MetricInfo, Record, load_record, load_records, publish
from noisyexp.results.rows import Row, load_rows
from noisyexp.results.table import Table, build_table

__all__ = [
    "MetricInfo",
    "Record",
    "Row",
    "Table",
    "build_table",
    "load_record",
    "load_records",
    "load_rows",
    "publish",
]
