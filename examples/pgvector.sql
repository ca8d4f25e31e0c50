-- The vectors of a run in PostgreSQL with pgvector, and the next tracks of one of them; see docs/exporting.md.
-- psql -v width=65 -v track=<id> -f pgvector.sql      (width: numbers of a vector)
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE tracks (
    id text PRIMARY KEY,
    title text,
    artist text,
    vector vector(:width) NOT NULL, -- searched
    query vector(:width) NOT NULL -- what is searched for after this track
);

\copy tracks FROM 'vectors.csv' WITH (FORMAT csv, HEADER)

-- For large catalogues; an approximate search. Its operators must be those of the inner product.
CREATE INDEX ON tracks USING hnsw (vector vector_ip_ops);

-- <#> is the inner product times -1, so that the best track comes first.
WITH last AS (SELECT query FROM tracks WHERE id = :'track')
SELECT id, title, artist, round(-(vector <#> (SELECT query FROM last))::numeric, 6) AS score
FROM tracks
WHERE id <> :'track'
ORDER BY vector <#> (SELECT query FROM last)
LIMIT 10;
