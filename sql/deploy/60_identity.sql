-- Deploy nginx-commerce:60_identity to pg
-- requires: 20_identity
-- requires: 55_revocation
-- What accounts need to look after themselves: tokens for mails, one-time passwords, brakes, the notification outbox.

BEGIN;

SET LOCAL ROLE commerce_owner;

ALTER TABLE shop.app_user
    ADD COLUMN email_verified_at  timestamptz,
    -- counts changes of the password: a login that began before one must not end after it
    ADD COLUMN password_version   int  NOT NULL DEFAULT 1;

CREATE INDEX app_user_staff ON shop.app_user (tenant_id, id)
    WHERE deleted_at IS NULL AND roles && '{staff,owner}';

ALTER TABLE shop.session
    ADD COLUMN last_used_at   timestamptz  NOT NULL DEFAULT now(),
    ADD COLUMN address        inet,
    ADD COLUMN user_agent     text         CHECK (length(user_agent) <= 512),
    ADD COLUMN second_factor  boolean      NOT NULL DEFAULT false;

CREATE INDEX refresh_token_expiry ON shop.refresh_token (tenant_id, expires_at);
CREATE INDEX session_age ON shop.session (tenant_id, last_used_at);

ALTER TABLE shop.login_attempt
    -- when somebody was last let through to the password although the account is under attack
    ADD COLUMN admitted_at    timestamptz  NOT NULL DEFAULT now();

CREATE TABLE shop.user_token (
    tenant_id   bigint       NOT NULL,
    hash        bytea        NOT NULL CHECK (length(hash) = 32),
    user_id     uuid         NOT NULL,
    purpose     text         NOT NULL CHECK (purpose IN ('verify-email', 'reset-password', 'change-email', 'invitation')),
    -- what takes effect when the token comes back: a new address, or the password of this registration (hashed)
    payload     jsonb        NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(payload) = 'object'),
    created_by  uuid,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    expires_at  timestamptz  NOT NULL,
    PRIMARY KEY (tenant_id, hash),
    FOREIGN KEY (tenant_id, user_id) REFERENCES shop.app_user ON DELETE CASCADE
);

COMMENT ON TABLE shop.user_token IS 'SHA-256 of tokens that were sent by mail; a used one is deleted, so it works once';

CREATE INDEX user_token_user ON shop.user_token (tenant_id, user_id, purpose);
CREATE INDEX user_token_expiry ON shop.user_token (tenant_id, expires_at);

CREATE TABLE shop.totp (
    tenant_id     bigint       NOT NULL,
    user_id       uuid         NOT NULL,
    -- sealed by the edge: nobody reads it here
    secret        text         NOT NULL CHECK (secret ~ '^v1:[A-Za-z0-9._-]{1,64}:[A-Za-z0-9_-]+$'),
    -- NULL: enrolment has begun
    confirmed_at  timestamptz,
    -- the last 30 seconds whose code was taken: none before, and not this one again
    last_step     bigint       NOT NULL DEFAULT 0,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES shop.app_user ON DELETE CASCADE
);

COMMENT ON TABLE shop.totp IS 'One-time passwords of staff (RFC 6238)';

CREATE TABLE shop.recovery_code (
    tenant_id   bigint       NOT NULL,
    user_id     uuid         NOT NULL,
    hash        bytea        NOT NULL CHECK (length(hash) = 32),
    created_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, hash),
    FOREIGN KEY (tenant_id, user_id) REFERENCES shop.totp ON DELETE CASCADE
);

COMMENT ON TABLE shop.recovery_code IS 'SHA-256 of codes of 80 random bits, for when the authenticator is lost; a used one is deleted';

CREATE TABLE shop.user_network (
    tenant_id   bigint       NOT NULL,
    user_id     uuid         NOT NULL,
    network     inet         NOT NULL,
    last_at     timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, network),
    FOREIGN KEY (tenant_id, user_id) REFERENCES shop.app_user ON DELETE CASCADE
);

COMMENT ON TABLE shop.user_network IS 'Where a user has logged in from: there an attack on the account does not lock them out';

CREATE INDEX user_network_age ON shop.user_network (tenant_id, last_at);

CREATE TABLE shop.throttle (
    tenant_id      bigint       NOT NULL REFERENCES shop.tenant,
    -- SHA-256 of what is counted: an account at a network, an address that mails go to
    key            bytea        NOT NULL CHECK (length(key) = 32),
    count          int          NOT NULL DEFAULT 1,
    first_at       timestamptz  NOT NULL DEFAULT now(),
    last_at        timestamptz  NOT NULL DEFAULT now(),
    blocked_until  timestamptz,
    PRIMARY KEY (tenant_id, key)
);

COMMENT ON TABLE shop.throttle IS 'Counters of what must not be done too often; forgotten after a day';

CREATE INDEX throttle_age ON shop.throttle (tenant_id, last_at);

CREATE TABLE shop.notification (
    tenant_id    bigint       NOT NULL REFERENCES shop.tenant,
    id           uuid         NOT NULL,
    channel      text         NOT NULL CHECK (channel IN ('email', 'sms', 'push')),
    recipient    text         NOT NULL CHECK (length(recipient) BETWEEN 1 AND 2048),
    template     text         NOT NULL CHECK (template ~ '^[a-z0-9-]{1,64}$'),
    data         jsonb        NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(data) = 'object'),
    -- what only the recipient may know (the token of a link), sealed by the edge; the sender opens it, and empties it when it is sent
    secret       text         CHECK (secret ~ '^v1:[A-Za-z0-9._-]{1,64}:[A-Za-z0-9_-]+$'),
    correlation_id  text,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    -- not worth sending any more
    expires_at   timestamptz  NOT NULL,
    attempts     int          NOT NULL DEFAULT 0,
    next_at      timestamptz  NOT NULL DEFAULT now(),
    sent_at      timestamptz,
    error        text,
    PRIMARY KEY (tenant_id, id)
);

COMMENT ON TABLE shop.notification IS 'Mails, text messages and pushes that are to be sent, written in the transaction of what they tell of';

CREATE INDEX notification_unsent ON shop.notification (tenant_id, next_at) WHERE sent_at IS NULL;
CREATE INDEX notification_age ON shop.notification (tenant_id, created_at);

CREATE TABLE shop.housekeeping (
    tenant_id   bigint       NOT NULL REFERENCES shop.tenant,
    job         text         NOT NULL,
    ran_at      timestamptz  NOT NULL,
    PRIMARY KEY (tenant_id, job)
);

COMMENT ON TABLE shop.housekeeping IS 'When a job that is not due in every round of maintenance last came to its end';

CALL domain.isolate('shop.user_token');
CALL domain.isolate('shop.totp');
CALL domain.isolate('shop.recovery_code');
CALL domain.isolate('shop.user_network');
CALL domain.isolate('shop.throttle');
CALL domain.isolate('shop.notification');
CALL domain.isolate('shop.housekeeping');

RESET ROLE;

-- accounts of the time before there was a registration were made by operators
UPDATE shop.app_user SET email_verified_at = created_at;

COMMIT;
