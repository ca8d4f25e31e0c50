-- marked → interleaving: the users one of whose events is not what the event before it recommended.
SELECT DISTINCT user_id
FROM (
    SELECT
        marked.*,
        LAG(is_last) OVER (PARTITION BY user_id ORDER BY nth) AS is_last_before,
        LAG(recommendation) OVER (PARTITION BY user_id ORDER BY nth) AS recommended
    FROM marked
) AS compared
WHERE begins = 0 AND recommended >= 0 AND NOT is_last_before AND recommended <> track
