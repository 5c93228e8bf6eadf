-- Deploy nginx-commerce:55_revocation to pg
-- requires: 50_platform
-- Access tokens that must not be taken any more although they have not expired.
--
-- An edge verifies a token without asking anybody, so it is told what is revoked: in the reply of the command that
-- revokes, by a notice on commerce_revoke, and, when it starts, by what is in this table.

BEGIN;

SET LOCAL ROLE commerce_owner;

CREATE TABLE shop.revocation (
    tenant_id   bigint       NOT NULL REFERENCES shop.tenant,
    kind        text         NOT NULL CHECK (kind IN ('session', 'user')),
    -- a session's: every token of it. A user's: every token that was issued until revoked_at, but those of the session "keep"
    id          uuid         NOT NULL,
    keep        uuid         CHECK (keep IS NULL OR kind = 'user'),
    revoked_at  timestamptz  NOT NULL,
    PRIMARY KEY (tenant_id, kind, id)
);

COMMENT ON TABLE shop.revocation IS 'Revoked sessions and users for as long as an access token may live (a day)';

CREATE INDEX revocation_age ON shop.revocation (revoked_at);
CREATE INDEX revocation_age_of_tenant ON shop.revocation (tenant_id, revoked_at);

CALL domain.isolate('shop.revocation');

GRANT SELECT ON shop.revocation TO commerce_platform;
CREATE POLICY revocations ON shop.revocation FOR SELECT TO commerce_platform USING (true);

RESET ROLE;
SET LOCAL ROLE commerce_platform;

-- What was revoked in the last so many seconds, of all tenants.
CREATE FUNCTION platform.revocations(seconds int, OUT tenant_id bigint, OUT kind text, OUT id uuid, OUT keep uuid,
                                     OUT revoked_at timestamptz) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT r.tenant_id, r.kind, r.id, r.keep, r.revoked_at
      FROM shop.revocation r
     WHERE r.revoked_at > statement_timestamp() - make_interval(secs => seconds)
$$;

REVOKE ALL ON FUNCTION platform.revocations(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION platform.revocations(int) TO commerce_owner;

RESET ROLE;

COMMIT;
