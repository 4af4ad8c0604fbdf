-- Made-up log rows that look like real ones, for psql.
--
--   psql -v rows=20000 -v from="2026-01-01 00:00+00" -v to="2026-01-01 01:00+00" -f bench/gen.sql
--
-- Variables, all of them optional:
--   table   where to put the rows (logq.logs): needs ts, level, service, message, trace_id, attrs
--   rows    how many (10000)
--   from    time of the first row (24 hours ago)
--   to      time after the last one (now)
--   seed    a number from -1 to 1: the same seed makes the same rows
--
-- Rows come in the order of time.  Twenty services share them as 1 : 1/2 : 1/3 : ...,
-- levels are DEBUG 20 %, INFO 68 %, WARN 9 %, ERROR 2.6 %, FATAL 0.4 %.  Seven rows in
-- ten belong to a trace, about six rows each, across services; four in ten have
-- attributes.

\if :{?table} \else \set table logq.logs \endif
\if :{?rows} \else \set rows 10000 \endif
\if :{?from} \else
SELECT now() - interval '24 hours' AS "from" \gset
\endif
\if :{?to} \else
SELECT now() AS "to" \gset
\endif
\if :{?seed} \else
SELECT random() AS seed \gset
\endif

-- setseed() in the same statement would not be sure to come first
SELECT setseed(:seed) \g /dev/null

INSERT INTO :table (ts, level, service, message, trace_id, attrs)
WITH names AS MATERIALIZED (
  SELECT
    ARRAY['web', 'payment-service', 'auth-service', 'checkout', 'catalog-api',
      'search-api', 'user-service', 'cart', 'inventory', 'notification',
      'order-service', 'shipping', 'recommendation', 'gateway', 'billing',
      'session-store', 'image-resizer', 'mail-relay', 'fraud-check', 'scheduler'] AS service,
    -- where 1/1, 1/1 + 1/2, ... lie when all twenty together are 1
    (SELECT array_agg(share ORDER BY share)
     FROM (SELECT (sum(1.0 / k) OVER (ORDER BY k) / sum(1.0 / k) OVER ())::float8 AS share
           FROM generate_series(1, 20) k) s
     WHERE share < 1) AS bound,
    ARRAY['INFO', 'DEBUG', 'WARN', 'ERROR', 'FATAL'] AS level,
    ARRAY['eu-west', 'eu-central', 'us-east', 'us-west', 'ap-south'] AS region,
    ARRAY['/', '/api/v1/items', '/api/v1/orders', '/api/v1/cart', '/login', '/api/v1/search',
      '/api/v1/users/me', '/healthz', '/static/app.js', '/api/v2/checkout'] AS path,
    ARRAY['db-1', 'db-2', 'cache-1', 'cache-2', 'queue-1', 'ledger', 'idp', 'cdn'] AS peer
), dice AS MATERIALIZED (
  SELECT i, random() AS a, random() AS b, random() AS c, random() AS d, random() AS e,
    random() AS f, random() AS g,
    -- durations: most are short, few are long
    (-40 * ln(1 - random()))::numeric(9, 1) AS ms
  FROM generate_series(1, :rows) i
), picked AS (
  SELECT i, d, e, g, ms,
    timestamptz :'from' + (timestamptz :'to' - timestamptz :'from') * ((i - 1 + a) / :rows) AS ts,
    n.service[width_bucket(b, n.bound) + 1] AS service,
    n.level[width_bucket(c, ARRAY[0.68, 0.88, 0.97, 0.996]::float8[]) + 1] AS level,
    n.region[1 + floor(f * 5)::int] AS region,
    n.path[1 + floor(d * 10)::int] AS path,
    n.peer[1 + floor(f * 8)::int] AS peer,
    (d * 1e6)::int AS num
  FROM dice, names n
)
SELECT ts, level, service,
  CASE level
    WHEN 'INFO' THEN
      CASE floor(e * 8)::int
        WHEN 0 THEN format('user %s logged in from 10.%s.%s.%s', num, num % 200, num % 251, num % 241)
        WHEN 1 THEN format('order %s placed, %s items, total %s EUR', 100000 + num, 1 + num % 9, ((num % 50000) / 100.0)::numeric(6, 2))
        WHEN 2 THEN format('job %s done in %s ms', num, ms)
        WHEN 3 THEN format('cache refreshed: %s keys from %s in %s ms', num % 5000, peer, ms)
        WHEN 4 THEN format('message %s delivered to %s', md5(num::text), peer)
        ELSE format('GET %s 200 in %s ms', path, ms)
      END
    WHEN 'DEBUG' THEN
      CASE floor(e * 4)::int
        WHEN 0 THEN format('cache hit for key user:%s', num)
        WHEN 1 THEN format('pool: %s of 50 connections to %s in use', num % 51, peer)
        WHEN 2 THEN format('feature flag new-%s is %s for user %s', service, num % 2 = 0, num)
        ELSE format('query took %s ms, %s rows', ms, num % 1000)
      END
    WHEN 'WARN' THEN
      CASE floor(e * 4)::int
        WHEN 0 THEN format('slow request: %s took %s ms', path, 1000 + ms * 10)
        WHEN 1 THEN format('retry %s of 3 to %s after timeout', 1 + num % 3, peer)
        WHEN 2 THEN format('queue is %s %% full', 70 + num % 30)
        ELSE format('rate limit reached for client %s', num)
      END
    WHEN 'ERROR' THEN
      CASE floor(e * 5)::int
        WHEN 0 THEN format('connection to %s failed: timeout after %s ms', peer, 1000 * (1 + num % 30))
        WHEN 1 THEN format('payment %s declined: code %s', num, 50 + num % 9)
        WHEN 2 THEN format('unhandled exception in %s: null reference at line %s', path, num % 900)
        WHEN 3 THEN format('GET %s 500 in %s ms', path, ms)
        ELSE format('deadlock detected on %s, transaction %s rolled back', peer, num)
      END
    ELSE
      CASE floor(e * 2)::int
        WHEN 0 THEN format('out of memory: could not allocate %s bytes', 4096::bigint * num)
        ELSE format('cannot reach %s: timeout, giving up', peer)
      END
  END,
  -- neighbours in time share a trace
  CASE WHEN g < 0.7 THEN md5(:'from' || :'seed' || floor((i + e * 16) / 6)::text) END,
  CASE WHEN g > 0.3 AND g < 0.7 THEN
    jsonb_build_object(
      'status', CASE level WHEN 'ERROR' THEN 500 WHEN 'FATAL' THEN 503 WHEN 'WARN' THEN 429 ELSE 200 END,
      'duration_ms', ms, 'user_id', num, 'region', region)
  END
FROM picked;
