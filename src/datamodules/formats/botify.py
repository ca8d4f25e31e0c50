"""Event logs of the service: JSON lines from several replicas, in rotated and compressed files."""

from src.datamodules.line_format import LineFormat

_WHOLE = "DECIMAL(22, 3)"  # a cast to BIGINT would round 1.7 to 2 without an error
_SHORT = "DECIMAL(18, 3)"  # 64 bits; arithmetic with the 128 bits of _WHOLE is ten times as slow
_SCHEMA = (
    f'{{"message": "VARCHAR", "timestamp": "{_SHORT}", "user": "{_WHOLE}", "track": "{_WHOLE}", "time": "DOUBLE"}}'
)


def _whole(number: str) -> str:
    """SQL expression: a DECIMAL as BIGINT; NULL where it is not a whole number."""
    short = f"TRY_CAST({number} AS {_SHORT})"
    return f"""CASE WHEN {short} % CAST(1 AS {_SHORT}) = 0 THEN CAST({short} AS BIGINT)
                    WHEN {short} IS NULL AND TRY_CAST({number} AS BIGINT) = {number}
                    THEN TRY_CAST({number} AS BIGINT) END"""


READER = LineFormat(
    catalogue="tracks.json",
    catalogue_query="""
        SELECT track, title, artist, NULL AS duration_ms FROM read_json($file, format = 'newline_delimited',
        columns = {track: 'BIGINT', title: 'VARCHAR', artist: 'VARCHAR'})""",
    events="logs/**/data.json*",
    fields=f"TRY(json_transform(line, '{_SCHEMA}'))",
    parse=f"""
        {_whole("fields.user")} AS user_id, {_whole("fields.timestamp")} AS timestamp,
        {_whole("fields.track")} AS track, fields.time AS played_ratio,
        CAST(NULL AS BIGINT) AS source_session, fields.message = 'last' AS is_last,
        CASE WHEN fields IS NULL THEN 'not a JSON object'
             WHEN COALESCE(fields.message NOT IN ('next', 'last'), TRUE) THEN 'message must be "next" or "last"'
             WHEN COALESCE(timestamp NOT BETWEEN 0 AND 253402300799999, TRUE)
             THEN 'timestamp must be a whole number of milliseconds since 1970'
             WHEN user_id IS NULL THEN 'user must be a whole number'
             WHEN track IS NULL THEN 'track must be a whole number'
             WHEN fields.time IS NULL THEN 'time must be a number' END AS reason""",
)
