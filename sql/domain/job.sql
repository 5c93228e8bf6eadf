-- Jobs of the edge: conf/jobs.conf, docs/directives/jobs.md.

-- Wakes the job of this name when the transaction commits; it would come by itself, later.
CREATE OR REPLACE FUNCTION domain.job_wake(name text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('commerce_job', name);
END
$$;
