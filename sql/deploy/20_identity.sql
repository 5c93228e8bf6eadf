-- Deploy nginx-commerce:20_identity to pg
-- requires: 00_foundation
-- Who may ask: users, their sessions, refresh tokens, login attempts.

BEGIN;

SET LOCAL ROLE commerce_owner;

CREATE TABLE shop.app_user (
    tenant_id      bigint       NOT NULL REFERENCES shop.tenant,
    id             uuid         NOT NULL,
    email          text         NOT NULL CHECK (length(email) BETWEEN 3 AND 254 AND position('@' IN email) > 1),
    -- what a login looks for: lower() in a condition is not leakproof, so under row-level security no index would serve it
    email_key      text         NOT NULL GENERATED ALWAYS AS (lower(email)) STORED,
    -- empty: no password yet, nobody can log in
    password_hash  text         NOT NULL DEFAULT ''
                                CHECK (password_hash = '' OR password_hash ~ '^\$2b\$[0-9]{2}\$[./A-Za-z0-9]{53}$'),
    name           text         NOT NULL DEFAULT '' CHECK (length(name) <= 200),
    phone          text         CHECK (length(phone) <= 40),
    avatar_url     text         CHECK (length(avatar_url) <= 2048),
    date_of_birth  date,
    preferences    jsonb        NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(preferences) = 'object'),
    roles          text[]       NOT NULL DEFAULT '{customer}'
                                CHECK (roles <@ ARRAY['customer', 'staff', 'owner', 'service']),
    permissions    text[]       NOT NULL DEFAULT '{}'
                                CHECK (array_to_string(permissions, ' ') ~ '^([a-z0-9_-]+\.[a-z0-9_-]+( [a-z0-9_-]+\.[a-z0-9_-]+)*)?$'),
    status         text         NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
    version        bigint       NOT NULL DEFAULT 1,
    last_login_at  timestamptz,
    created_at     timestamptz  NOT NULL DEFAULT now(),
    updated_at     timestamptz  NOT NULL DEFAULT now(),
    deleted_at     timestamptz,
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 90);

COMMENT ON TABLE shop.app_user IS 'Customers and staff of a tenant; an e-mail is unique within its tenant, whatever its case';

CREATE UNIQUE INDEX app_user_email ON shop.app_user (tenant_id, email_key) WHERE deleted_at IS NULL;

CREATE TABLE shop.session (
    tenant_id   bigint       NOT NULL,
    id          uuid         NOT NULL,
    user_id     uuid         NOT NULL,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    expires_at  timestamptz  NOT NULL,
    revoked_at  timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES shop.app_user ON DELETE CASCADE
);

COMMENT ON TABLE shop.session IS 'One per login; access tokens carry its id as sid';

CREATE INDEX session_by_user ON shop.session (tenant_id, user_id);
CREATE INDEX session_expiry ON shop.session (expires_at);

CREATE TABLE shop.refresh_token (
    tenant_id    bigint       NOT NULL,
    hash         bytea        NOT NULL CHECK (length(hash) = 32),
    session_id   uuid         NOT NULL,
    -- tokens that descend from one login: reuse of one revokes all
    family       uuid         NOT NULL,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    expires_at   timestamptz  NOT NULL,
    used_at      timestamptz,
    revoked_at   timestamptz,
    PRIMARY KEY (tenant_id, hash),
    FOREIGN KEY (tenant_id, session_id) REFERENCES shop.session ON DELETE CASCADE
);

COMMENT ON TABLE shop.refresh_token IS 'SHA-256 of refresh tokens: 256 random bits need no salt';

CREATE INDEX refresh_token_session ON shop.refresh_token (tenant_id, session_id);
CREATE INDEX refresh_token_family ON shop.refresh_token (tenant_id, family);

CREATE TABLE shop.login_attempt (
    tenant_id   bigint       NOT NULL REFERENCES shop.tenant,
    -- SHA-256 of the e-mail as it was tried: accounts that do not exist are counted alike
    account     bytea        NOT NULL CHECK (length(account) = 32),
    attempts    int          NOT NULL DEFAULT 1,
    first_at    timestamptz  NOT NULL DEFAULT now(),
    last_at     timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, account)
);

COMMENT ON TABLE shop.login_attempt IS 'Attempts since the last successful login; counted before the password is looked at';

CREATE INDEX login_attempt_age ON shop.login_attempt (tenant_id, last_at);

CALL domain.isolate('shop.app_user');
CALL domain.isolate('shop.session');
CALL domain.isolate('shop.refresh_token');
CALL domain.isolate('shop.login_attempt');

RESET ROLE;

COMMIT;
