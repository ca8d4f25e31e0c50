"""Radio playlists, one playlist in each line."""

from src.datamodules.line_format import LineFormat

READER = LineFormat(
    catalogue="song_hash.txt",
    catalogue_query="""
        SELECT track, title, artist, NULL AS duration_ms FROM read_csv($file, delim = '\\t', quote = '',
        escape = '', header = false, auto_detect = false,
        columns = {track: 'BIGINT', title: 'VARCHAR', artist: 'VARCHAR'})""",
    events="train.txt",
    skip=2,
    fields="list_transform(string_split_regex(trim(line), '\\s+'), lambda word: TRY_CAST(word AS BIGINT))",
    parse="""
        CAST(NULL AS BIGINT) AS user_id, CAST(NULL AS BIGINT) AS timestamp, fields AS track,
        CAST(NULL AS DOUBLE) AS played_ratio, CAST(NULL AS BIGINT) AS source_session, FALSE AS is_last,
        CASE WHEN len(list_filter(fields, lambda song: song IS NULL)) > 0
             THEN 'a playlist must be song numbers separated by spaces' END AS reason""",
    is_playlist=True,
)
