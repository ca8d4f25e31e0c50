"""Plays of a lab study as CSV, with the seconds that each track was played."""

from src.datamodules.line_format import LineFormat

READER = LineFormat(
    catalogue="tracks.csv",
    catalogue_query="""
        SELECT item_id AS track, title, artist, duration_ms FROM read_csv($file, delim = ',', quote = '"',
        header = true, auto_detect = false,
        columns = {item_id: 'BIGINT', duration_ms: 'DOUBLE', title: 'VARCHAR', artist: 'VARCHAR'})""",
    events="stage1.csv",
    header="user_id,item_id,timestamp,duration",
    fields="string_split(line, ',')",
    parse="""
        TRY_CAST(fields[1] AS BIGINT) AS user_id, TRY_CAST(fields[3] AS INTEGER)::BIGINT * 1000 AS timestamp,
        TRY_CAST(fields[2] AS BIGINT) AS track, TRY_CAST(fields[4] AS DOUBLE) AS played_ratio,
        CAST(NULL AS BIGINT) AS source_session, FALSE AS is_last,
        CASE WHEN len(fields) <> 4 THEN 'a line must have 4 columns'
             WHEN user_id IS NULL THEN 'user_id must be a whole number'
             WHEN track IS NULL THEN 'item_id must be a whole number'
             WHEN COALESCE(timestamp NOT BETWEEN 0 AND 253402300799999, TRUE)
             THEN 'timestamp must be a whole number of seconds since 1970'
             WHEN fields[4] <> '' AND played_ratio IS NULL THEN 'duration must be a number of seconds, or empty'
             END AS reason""",
    played_ratio="""CASE WHEN p.played_ratio * 1000 >= c.duration_ms THEN 1
                      ELSE p.played_ratio * 1000 / c.duration_ms END""",
)
