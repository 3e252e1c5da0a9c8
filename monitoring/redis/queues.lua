-- How long each queue of plugins/celery_stack/queues.toml is (a test compares), and `unacked`: what workers have taken.
-- As a script, because redis_exporter 1.69 stops counting at the first key that is not there: an empty queue.
local queues = { "default", "pg_io", "cpu_train" }
local lengths = { "unacked", tostring(redis.call("HLEN", "unacked")) }
for _, queue in ipairs(queues) do
  table.insert(lengths, queue)
  table.insert(lengths, tostring(redis.call("LLEN", queue)))
end
return lengths
