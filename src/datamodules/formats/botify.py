"""Event logs of the service: JSON lines from several replicas, in rotated and compressed files."""

from src.datamodules.line_format import LineFormat

_WHOLE = "DECIMAL(18, 3)"  # a cast to BIGINT would round 1.7 to 2 without an error
_LONG = "DECIMAL(22, 3)"  # for ids above 10¹⁵; arithmetic with its 128 bits is ten times as slow
_SCHEMA = (
    f'{{"message": "VARCHAR", "timestamp": "{_WHOLE}", "user": "{_WHOLE}", "track": "{_WHOLE}", "time": "DOUBLE", '
    '"recommendation": "BIGINT"}'
)


def _whole(name: str) -> str:
    """SQL expression: a field as BIGINT; NULL where it is not a whole number."""
    long = f"""TRY(json_transform(line, '{{"{name}": "{_LONG}"}}')).{name}"""
    return f"""CASE WHEN fields.{name} % CAST(1 AS {_WHOLE}) = 0 THEN CAST(fields.{name} AS BIGINT)
                    WHEN fields.{name} IS NULL AND TRY_CAST({long} AS BIGINT) = {long}
                    THEN TRY_CAST({long} AS BIGINT) END"""


READER = LineFormat(
    catalogue="tracks.json",
    catalogue_query="""
        SELECT track, title, artist, NULL AS duration_ms FROM read_json($file, format = 'newline_delimited',
        columns = {track: 'BIGINT', title: 'VARCHAR', artist: 'VARCHAR'})""",
    events="logs/**/data.json*",
    fields=f"TRY(json_transform(line, '{_SCHEMA}'))",
    parse=f"""
        {_whole("user")} AS user_id, {_whole("timestamp")} AS timestamp,
        {_whole("track")} AS track, fields.time AS played_ratio,
        CAST(NULL AS BIGINT) AS source_session, fields.message = 'last' AS is_last,
        fields.recommendation AS recommendation,
        CASE WHEN fields IS NULL THEN 'not a JSON object'
             WHEN COALESCE(fields.message NOT IN ('next', 'last'), TRUE) THEN 'message must be "next" or "last"'
             WHEN COALESCE(timestamp NOT BETWEEN 0 AND 253402300799999, TRUE)
             THEN 'timestamp must be a whole number of milliseconds since 1970'
             WHEN user_id IS NULL THEN 'user must be a whole number'
             WHEN track IS NULL THEN 'track must be a whole number'
             WHEN fields.time IS NULL THEN 'time must be a number' END AS reason""",
    has_recommendations=True,
)
