# shellcheck shell=bash
# A shop's API as its staff, for scripts.  Sourced after lib.sh, never run.


# shop_of SLUG: the running shop (scripts/up), or the one that COMMERCE_URL and the COMMERCE_STAFF_ variables name.
shop_of() {
    local ENVIRONMENT

    SHOP=$1
    if [ -z "${COMMERCE_URL-}" ]; then
        ENVIRONMENT=$("$ROOT/scripts/stack" env)
        eval "$ENVIRONMENT"
        # shellcheck disable=SC2153
        # hosts that belong to no shop see the default one: a mistyped slug must not fill that
        if [ -z "$(psql -X -At -d "$COMMERCE_PGURL" -v "slug=$1" \
            <<<"SELECT 1 FROM shop.tenant WHERE slug = :'slug'")" ]; then
            fail "there is no shop \"$1\"" "There are: $(psql -X -At -R ' ' -d "$COMMERCE_PGURL" \
                -c 'SELECT slug FROM shop.tenant ORDER BY id')"
        fi
    fi
}


# send PATH TYPE DATA [HEADER]: status in STATUS, body in BODY
send() {
    local answer

    answer=$(curl -sS -m 120 -w '\n%{http_code}' "$COMMERCE_URL$1" -H "Host: $SHOP.localhost" \
        -H "Content-Type: $2" --data-binary "$3" ${4:+-H "$4"}) \
        || fail "$COMMERCE_URL does not answer" "Is the shop up? scripts/up"
    STATUS=${answer##*$'\n'}
    BODY=${answer%$'\n'*}
    if [ "$STATUS" -ge 300 ]; then
        fail "the shop refused with $STATUS: $(jq -r '.detail // .' <<<"$BODY" 2>/dev/null || echo "$BODY")" \
            "$(jq -r '(.errors // [])[] | "  \(.pointer): \(.message)"' <<<"$BODY" 2>/dev/null || true)"
    fi
}


# Of the shop's staff, in TOKEN.
staff_token() {
    send /api/v1/auth/login application/json \
        "$(jq -nc --arg e "$COMMERCE_STAFF_EMAIL" --arg p "$COMMERCE_STAFF_PASSWORD" '{email: $e, password: $p}')"
    # shellcheck disable=SC2034
    TOKEN=$(jq -re .token <<<"$BODY")
}
