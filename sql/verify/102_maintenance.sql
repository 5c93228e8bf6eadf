-- Verify nginx-commerce:102_maintenance on pg

BEGIN;

SELECT state FROM domain.progress WHERE false;

ROLLBACK;
