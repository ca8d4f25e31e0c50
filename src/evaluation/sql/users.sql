-- From the lines of a log to what each user did, by the sheet: sort a user's events by time, cut after each `last`.
-- `lines`: message, timestamp, user_id, track, time, latency, file, arm (NULL where a line is not of the experiment);
-- its rowid follows files and lines. Each rule that leaves something out is counted in `guards`.

CREATE TABLE two_arms AS
SELECT user_id FROM lines WHERE arm IS NOT NULL GROUP BY user_id HAVING min(arm) <> max(arm);

-- a duplicate is the very line before it once a user's lines are sorted
CREATE TABLE judged AS
SELECT *,
    COALESCE(timestamp = lag(timestamp) OVER clock AND message = lag(message) OVER clock
        AND track = lag(track) OVER clock AND time = lag(time) OVER clock, FALSE) AS is_duplicate
FROM (SELECT rowid AS position, * FROM lines WHERE arm IS NOT NULL AND user_id NOT IN (SELECT user_id FROM two_arms))
WINDOW clock AS (PARTITION BY user_id ORDER BY timestamp, message DESC, track, time, position);

CREATE TABLE sessions AS
SELECT user_id, min(arm) AS arm, min(timestamp) AS started, count(*) AS tracks, sum(time) AS time,
    sum(latency) AS latency, max(message) = 'last' AS is_orphan, min(message) = 'last' AS has_end,
    count(*) FILTER (time < 0 OR time > 1) > 0 AS has_bad_share, count(*) FILTER (went_back) AS lines_behind
FROM (
    SELECT *, COALESCE(file = lag(file) OVER clock AND position < lag(position) OVER clock, FALSE) AS went_back,
        COALESCE(sum((message = 'last')::INTEGER) OVER clock, 0) - (message = 'last')::INTEGER AS session
    FROM judged WHERE NOT is_duplicate
    WINDOW clock AS (PARTITION BY user_id ORDER BY timestamp, message DESC, track, time, position
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW))
GROUP BY user_id, session;

CREATE VIEW kept AS SELECT * FROM sessions WHERE NOT is_orphan AND has_end AND NOT has_bad_share;

CREATE TABLE users AS
SELECT user_id, min(arm) AS arm, count(*) AS sessions, sum(tracks)::BIGINT AS tracks, sum(time) AS time,
    sum(latency) * 1000 AS latency_ms
FROM kept GROUP BY user_id;

CREATE TABLE guards AS
SELECT
    (SELECT count(*) FROM two_arms) AS users_in_two_arms,
    (SELECT count(*) FROM judged WHERE is_duplicate) AS duplicate_lines,
    (SELECT COALESCE(sum(lines_behind), 0) FROM sessions) AS lines_behind_the_clock,
    (SELECT count(*) FROM sessions WHERE has_bad_share) AS sessions_with_bad_shares,
    (SELECT count(*) FROM sessions WHERE is_orphan) AS ends_without_session,
    (SELECT count(*) FROM sessions WHERE NOT has_end) AS sessions_without_end;
