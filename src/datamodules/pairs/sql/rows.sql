-- pairs (with is_kept and, where the split is by pair, part_of_pair), listens, sessions (session_key, nth, part) and
-- listeners (listening_user, listener) → rows: what a shard has. Each pair is a row. The first event of a session is a
-- row without a previous track, as is an event whose pair is left out: the rows of a session show all that was heard.
SELECT
    nth AS session,
    listener,
    CAST(place - 1 AS INT) AS position,
    timestamp,
    following,
    played_ratio,
    CASE WHEN is_kept THEN CAST(previous_place - 1 AS INT) END AS previous_position,
    CASE WHEN is_kept THEN previous END AS previous,
    CAST(COALESCE(part_of_pair, part) AS TINYINT) AS split
FROM (
    SELECT session, place, previous_place, timestamp, previous, following, played_ratio, is_kept, part_of_pair
    FROM pairs
    UNION ALL
    SELECT session, place, NULL, timestamp, NULL, track, played_ratio, FALSE, NULL
    FROM listens
    WHERE place = 1
) AS everything
INNER JOIN sessions ON session = session_key
INNER JOIN listeners ON user_of_session = listening_user
