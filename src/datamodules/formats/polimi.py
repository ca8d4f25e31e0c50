"""Ordered playlists as CSV, one track in each line."""

from src.datamodules.line_format import LineFormat

READER = LineFormat(
    catalogue="tracks.csv",
    catalogue_query="""
        SELECT track_id AS track, 'track ' || track_id AS title, 'artist ' || artist_id AS artist,
               NULL AS duration_ms
        FROM read_csv($file, delim = ',', header = true, auto_detect = false, columns = {track_id: 'BIGINT',
        album_id: 'BIGINT', artist_id: 'BIGINT', duration_sec: 'BIGINT'})""",
    events="train_sequential.csv",
    header="playlist_id,track_id",
    fields="string_split(line, ',')",
    parse="""
        TRY_CAST(fields[1] AS BIGINT) AS user_id, CAST(NULL AS BIGINT) AS timestamp,
        TRY_CAST(fields[2] AS BIGINT) AS track, CAST(NULL AS DOUBLE) AS played_ratio,
        TRY_CAST(fields[1] AS BIGINT) AS source_session, FALSE AS is_last,
        CASE WHEN len(fields) <> 2 THEN 'a line must have 2 columns'
             WHEN user_id IS NULL THEN 'playlist_id must be a whole number'
             WHEN track IS NULL THEN 'track_id must be a whole number' END AS reason""",
)
