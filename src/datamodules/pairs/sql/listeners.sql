-- listens → listeners: the number 0, 1, … of each user.
SELECT user_id AS listening_user, CAST(ROW_NUMBER() OVER (ORDER BY user_id) - 1 AS BIGINT) AS listener
FROM (SELECT DISTINCT user_id FROM listens) AS users
