"""What must hold when it is over: the buyers' notes compared with the shop's books, with the provider's and with the mails, and the
books with themselves.

CHECKS are of one run: they take the shop and the purchases.  BOOKS are of all that the shop has, once: they take the shop.  Each returns
faults, texts; none: it holds.
"""

import collections
import datetime
import json

import stack

LIMITED = "torture-hot"             # slugs of what there is too little of


def books(shop, purchases):
    """Orders of the buyers in this run as PostgreSQL has them, by id."""
    users = list({p.user for p in purchases})
    rows = shop.rows("SELECT tenant_id, id::text, user_id::text, status::text, total_amount, cart_id::text, payment_method "
                     "FROM shop.orders WHERE user_id::text = ANY(%s) AND created_at >= %s AND created_at < coalesce(%s::timestamptz, 'infinity')",
                     users, shop.began, shop.ended)
    return {row["id"]: row for row in rows}


MISSED = """
    SELECT o.type, o.event_id, c.consumer FROM event.outbox o JOIN domain.event_types() t ON (t.topic, t.type) = (o.topic, o.type)
     CROSS JOIN unnest(t.consumers) c (consumer)
     WHERE NOT EXISTS (SELECT FROM event.inbox i WHERE (i.tenant_id, i.consumer, i.event_id) = (o.tenant_id, c.consumer, o.event_id))
       AND (c.consumer <> 'consumer.webhooks'
            OR EXISTS (SELECT FROM shop.webhook_endpoint e WHERE e.tenant_id = o.tenant_id AND e.created_at <= o.created_at))
     LIMIT 20
"""


def settled(shop):
    """What is on its way has arrived: payments have their ends, events are with their consumers, mails have left."""
    return not (shop.broker and shop.rows(MISSED)) and shop.value(
        "SELECT NOT EXISTS (SELECT FROM shop.saga WHERE next_at IS NOT NULL) AND NOT EXISTS (SELECT FROM shop.payment WHERE next_at IS NOT NULL)"
        " AND NOT EXISTS (SELECT FROM shop.refund WHERE next_at IS NOT NULL) AND NOT EXISTS (SELECT FROM event.unsent)"
        " AND NOT EXISTS (SELECT FROM shop.notification WHERE status = 'queued')"
        " AND NOT EXISTS (SELECT FROM shop.payment_event WHERE applied_at IS NULL AND next_at IS NOT NULL)")


def settle(shop):
    """Waits for that.  Nothing is hurried: deadlines, leases and pauses are those of the shop."""
    try:
        stack.wait_for(lambda: settled(shop), 150, "payments, events and mails come to their ends")
    except AssertionError as e:
        return [str(e)]
    return []


def every_buyer_knows(shop, purchases):
    """Each request ended with a definite answer."""
    return [f"{p.how} {p.key} of {p.user}: no definite answer, tries {[(t.status, t.code) for t in p.tries[-5:]]}"
            for p in purchases if not p.definite]


def nothing_is_lost(shop, purchases):
    """Each order that a buyer was told of exists, is the buyer's own, costs what was said and has what was asked for."""
    orders = books(shop, purchases)
    faults = []
    for p in purchases:
        for order in p.orders:
            row = orders.get(order)
            if row is None:
                faults.append(f"order {order} was promised to {p.user} and is not there")
            elif row["user_id"] != p.user or row["tenant_id"] != shop.tenant_ids[p.tenant]:
                faults.append(f"order {order} of {p.user} in {p.tenant} belongs to {row['user_id']} in {row['tenant_id']}")
            elif p.total is not None and row["total_amount"] != p.total:
                faults.append(f"order {order} costs {row['total_amount']}, {p.total} was said")
    wanted = {order: p.lines for p in purchases if p.how == "order" for order in p.orders}
    found = collections.defaultdict(dict)
    for row in shop.rows("SELECT order_id::text AS id, product_id, quantity FROM shop.order_item WHERE order_id::text = ANY(%s)",
                         list(wanted)):
        found[row["id"]][row["product_id"]] = row["quantity"]
    return faults + [f"order {order} has {found[order]} instead of {lines}" for order, lines in wanted.items()
                     if found[order] != lines]


def came_late(shop, purchases):
    """Orders of requests that nobody waited for any more: the buyer gave up, sent the same key again and was refused for good
    (sold out, no cart), then the first request was carried out.  A refusal is not kept with the key, so this is right."""
    given_up = {p.key: p for p in purchases if p.status >= 400 and any(t.status == 0 for t in p.tries)}
    rows = shop.rows("SELECT key, body::json ->> 'id' AS id FROM shop.idempotency WHERE status IN (201, 202) AND key = ANY(%s)",
                     list(given_up))
    return {row["id"] for row in rows}


def nothing_twice(shop, purchases):
    """One order for a key, none that nobody asked for."""
    told = set().union(*(p.orders for p in purchases))
    faults = [f"key {p.key} made {len(p.orders)} orders: {p.orders}" for p in purchases if len(p.orders) > 1]
    late = came_late(shop, purchases)
    return faults + [f"order {order} of {row['user_id']} was made, and no buyer was told"
                     for order, row in books(shop, purchases).items() if order not in told | late]


def nobody_pays_twice(shop, purchases):
    """The provider's ledger: who has an order was charged its total, once; who has none has the money back; nobody else was charged."""
    ledger = shop.double.ledger()
    ours = {(r["id"], r["captured"], r["refunded"]) for r in shop.rows(
        "SELECT order_id::text AS id, sum(captured_amount) AS captured, sum(refunded_amount) AS refunded FROM shop.payment "
        "WHERE method = 'stripe' GROUP BY order_id")}
    ours = {order: (captured, refunded) for order, captured, refunded in ours}
    faults = []
    for order, row in books(shop, purchases).items():
        charges, refunds = ledger.get(order, ([], []))
        due = row["total_amount"] if row["payment_method"] == "stripe" and row["status"] == "confirmed" else 0
        if len(charges) > 1:
            faults.append(f"order {order} was charged {len(charges)} times: {charges}")
        if sum(charges) - sum(refunds) != due:
            faults.append(f"order {order} is {row['status']} and costs {due}, paid {charges}, given back {refunds}")
        if row["payment_method"] == "stripe" and ours.get(order) != (sum(charges), sum(refunds)):
            faults.append(f"order {order}: paid {charges}, given back {refunds} at the provider, {ours.get(order)} in our books")
    return faults


def sagas_end(shop, purchases):
    """No saga is open after its deadline, and the order is what its saga says."""
    ends = {"completed": {"confirmed"}, "compensated": {"cancelled"}}
    orders = books(shop, purchases)
    return [f"saga of order {r['id']} is {r['state']}, the order {orders[r['id']]['status']}" for r in shop.rows(
        "SELECT order_id::text AS id, state FROM shop.saga WHERE order_id::text = ANY (%s)", list(orders))
        if orders[r["id"]]["status"] not in ends.get(r["state"], ())]


def one_mail_each(shop, purchases):
    """Each confirmed order has one confirmation, which has reached its buyer; no other order has one.  Mails are counted by Message-ID:
    SMTP has no way to tell whether what was cut off after the last byte was taken, so the same mail may come again."""
    came = shop.postman.mails()
    told = collections.defaultdict(list)
    for r in shop.rows("SELECT n.data ->> 'order_id' AS id, n.message_id, u.email FROM shop.notification n JOIN shop.app_user u "
                       "ON (u.tenant_id, u.id) = (n.tenant_id, n.user_id) WHERE n.template = 'order-confirmation'"):
        told[r["id"]].append(r)
    faults = []
    for order, row in books(shop, purchases).items():
        wanted = int(row["status"] == "confirmed")
        if len(told[order]) != wanted:
            faults.append(f"order {order} is {row['status']} and has {len(told[order])} confirmations")
        for r in told[order]:
            if came.get(f"<{r['message_id']}>", (None, 0))[0] != r["email"]:
                faults.append(f"the confirmation of order {order} did not reach {r['email']}: {came.get('<' + r['message_id'] + '>')}")
    return faults


def one_order_per_cart(shop):
    return [f"cart {row['cart_id']} was ordered {row['count']} times" for row in shop.rows(
        "SELECT cart_id::text, count(*) FROM shop.orders GROUP BY tenant_id, cart_id HAVING count(*) > 1")]


def stock_is_what_moved(shop):
    """Stock is the fold of its movements, what is reserved the sum of open reservations; nothing was sold that was not there."""
    faults = [f"variant {r['variant_id']} of tenant {r['tenant_id']}: on_hand {r['on_hand']}, its movements say {r['moved']}"
              for r in shop.rows(
                  "SELECT s.tenant_id, s.variant_id, s.on_hand, coalesce(sum(m.delta), 0) AS moved FROM shop.stock s "
                  "LEFT JOIN shop.stock_movement m USING (tenant_id, variant_id, location_id) "
                  "GROUP BY s.tenant_id, s.variant_id, s.location_id, s.on_hand HAVING s.on_hand <> coalesce(sum(m.delta), 0)")]
    faults += [f"variant {r['variant_id']} of tenant {r['tenant_id']}: {r['reserved']} reserved, its reservations say {r['open']}"
               for r in shop.rows(
                   "SELECT s.tenant_id, s.variant_id, s.reserved, coalesce(sum(r.quantity), 0) AS open FROM shop.stock s "
                   "LEFT JOIN shop.reservation r ON (r.tenant_id, r.variant_id, r.location_id) = (s.tenant_id, s.variant_id, s.location_id) "
                   "AND r.state = 'open' GROUP BY s.tenant_id, s.variant_id, s.location_id, s.reserved "
                   "HAVING s.reserved <> coalesce(sum(r.quantity), 0)")]
    faults += [f"variant {r['variant_id']} of tenant {r['tenant_id']}: {r['on_hand']} on hand, {r['reserved']} reserved"
               for r in shop.rows("SELECT tenant_id, variant_id, on_hand, reserved FROM shop.stock WHERE NOT allow_backorder "
                                  "AND (on_hand < 0 OR reserved < 0 OR reserved > on_hand)")]
    return faults + [f"{r['sold']} of {r['slug']} of tenant {r['tenant_id']} were sold, there were {r['had']}" for r in shop.rows(
        "SELECT i.tenant_id, i.slug, sum(i.quantity) AS sold, max(h.had) AS had FROM shop.order_item i "
        "JOIN shop.orders o ON o.tenant_id = i.tenant_id AND o.id = i.order_id AND o.status <> 'cancelled' "
        "JOIN LATERAL (SELECT sum(m.delta) AS had FROM shop.stock_movement m WHERE m.tenant_id = i.tenant_id "
        "AND m.variant_id = i.variant_id AND m.order_id IS NULL AND m.delta > 0) h ON true "
        "GROUP BY i.tenant_id, i.slug, i.variant_id HAVING sum(i.quantity) > max(h.had)")]


def money_adds_up(shop):
    """The lines of an order are its subtotal; subtotal, discount, tax and shipping its total."""
    return [f"order {r['id']}: {r}" for r in shop.rows(
        "SELECT o.id::text, o.subtotal_amount, sum(i.unit_amount * i.quantity) AS lines, o.total_amount FROM shop.orders o "
        "JOIN shop.order_item i ON i.tenant_id = o.tenant_id AND i.order_id = o.id GROUP BY o.tenant_id, o.id "
        "HAVING sum(i.unit_amount * i.quantity) <> o.subtotal_amount OR o.total_amount <> o.subtotal_amount - o.discount_amount "
        "+ o.shipping_amount - o.shipping_discount_amount + CASE WHEN o.tax_inclusive THEN 0 ELSE o.tax_amount END")]


def events_are_written(shop, purchases):
    """Each order has its events once, and there is none of an order that was never made."""
    orders = books(shop, purchases)
    count = collections.Counter()
    versions = collections.defaultdict(list)
    for row in shop.rows("SELECT aggregate_id, type, aggregate_version FROM event.outbox WHERE aggregate = 'order' "
                         "ORDER BY id"):
        count[row["aggregate_id"], row["type"]] += 1
        if row["aggregate_version"] is not None:
            versions[row["aggregate_id"]].append(row["aggregate_version"])
    faults = []
    for order, row in orders.items():
        needed = ["OrderCreated"] + [{"confirmed": "OrderConfirmed", "cancelled": "OrderCancelled"}[s] for s in [row["status"]] if s != "pending"]
        faults += [f"order {order} is {row['status']} and has {count[order, type]} events {type}"
                   for type in needed if count[order, type] != 1]
    made = {row["id"] for row in shop.rows("SELECT id::text FROM shop.orders")}
    faults += [f"event {type} of order {order}, which does not exist" for order, type in count if order not in made]
    return faults + [f"order {order}: events of versions {v}" for order, v in versions.items() if v != sorted(v)]


WITNESS = """
    CREATE SCHEMA IF NOT EXISTS torture;
    CREATE TABLE IF NOT EXISTS torture.delivered (n bigserial PRIMARY KEY, tenant_id bigint, consumer text, event_id uuid);
    CREATE OR REPLACE FUNCTION torture.seen() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO torture.delivered (tenant_id, consumer, event_id) VALUES (NEW.tenant_id, NEW.consumer, NEW.event_id);
        RETURN NULL;
    END $$;
    CREATE OR REPLACE TRIGGER torture AFTER INSERT ON event.inbox FOR EACH ROW EXECUTE FUNCTION torture.seen();
"""


def events_are_delivered(shop):
    """Every committed event is with each of its consumers, none was given up; a consumer has those of an aggregate in their order;
    with a broker, those of each topic.  The order is a witness's: a trigger in the transaction of the effect.  Carts are written behind, so
    theirs is in their versions only."""
    faults = [f"dead letter: {r}" for r in shop.rows("SELECT reason, consumer, topic, type, error FROM event.dead_letter LIMIT 5")]
    faults += [f"{r['type']} {r['event_id']} did not reach {r['consumer']}" for r in shop.rows(MISSED)]
    faults += [f"{r['consumer']} had {r['event_id']} {r['count']} times" for r in shop.rows(
        "SELECT consumer, event_id, count(*) FROM torture.delivered GROUP BY tenant_id, consumer, event_id HAVING count(*) > 1 LIMIT 20")]
    return faults + [f"{r['consumer']} had events of {r['aggregate']} {r['aggregate_id']} in another order" for r in shop.rows(
        "SELECT DISTINCT consumer, aggregate, aggregate_id FROM (SELECT d.consumer, o.aggregate, o.aggregate_id, o.id, lag(o.id) OVER "
        f"(PARTITION BY d.tenant_id, d.consumer, o.aggregate, o.aggregate_id{', o.topic' if shop.broker else ''} ORDER BY d.n) AS before "
        "FROM torture.delivered d JOIN event.outbox o ON (o.tenant_id, o.event_id) = (d.tenant_id, d.event_id) WHERE o.aggregate <> 'cart') x "
        "WHERE id < before LIMIT 20")]


def effects_are_once(shop):
    """What was put into carts was counted for recommendations, each time once: these rows have no key that would hide a second one.  The one
    shop with a webhook has a delivery of each of its events, the others have none."""
    def counted(query):
        return collections.Counter({(r["tenant_id"], r["who"], r["product"]): r["count"] for r in shop.rows(query)})

    told = counted("SELECT tenant_id, payload::json ->> 'user_id' AS who, (payload::json ->> 'affected_product_id')::bigint AS product, count(*) "
                   "FROM event.outbox WHERE topic = 'cart.updated' AND payload::json ->> 'action' = 'add' GROUP BY 1, 2, 3")
    done = counted("SELECT tenant_id, user_id::text AS who, product_id AS product, count(*) FROM shop.interaction "
                   "WHERE action = 'add_to_cart' GROUP BY 1, 2, 3")
    faults = [f"{told[one]} additions to a cart, {done[one]} effects: {one}" for one in {*told, *done} if told[one] != done[one]]
    told = counted("SELECT o.tenant_id, o.topic AS who, o.type AS product, count(*) FROM event.outbox o JOIN domain.event_types() t "
                   "ON (t.topic, t.type) = (o.topic, o.type) AND 'consumer.webhooks' = ANY (t.consumers) JOIN shop.webhook_endpoint e "
                   "ON e.tenant_id = o.tenant_id AND e.created_at <= o.created_at GROUP BY 1, 2, 3")
    done = counted("SELECT d.tenant_id, o.topic AS who, o.type AS product, count(*) FROM shop.webhook_delivery d JOIN event.outbox o "
                   "ON (o.tenant_id, o.event_id) = (d.tenant_id, d.event_id) GROUP BY 1, 2, 3")
    return (faults + [f"{told[one]} events, {done[one]} deliveries: {one}" for one in {*told, *done} if told[one] != done[one]])[:20]


def topics_have_it_all(shop):
    """With a broker: every committed event stands on its topic, none that was not committed does, and each key's are in one partition, in
    the order of their commits.  What stands there again, behind itself, is the same event."""
    if not shop.broker:
        return []
    told = {str(r["event_id"]): r for r in shop.rows("SELECT id, event_id, tenant_id, topic, type, aggregate, aggregate_id, payload, "
                                                     "shard, created_at FROM event.outbox WHERE id > %s OR id = ANY (%s)",
                                                     shop.broker.last, shop.broker.waiting)}
    stood, last, places, faults = set(), {}, collections.defaultdict(set), []
    for record in shop.topics:
        name = record["headers"]["ce_id"]
        row = told.get(name)
        if row is None:
            faults.append(f"{record['topic']} has {name}, which nobody wrote")
            continue
        key = f"{row['tenant_id']}:{row['aggregate_id']}"
        places[record["topic"], key].add(record["partition"])
        if (record["topic"], record["key"], record["headers"]["ce_tenantid"]) != (row["topic"], key, str(row["tenant_id"])) \
                or json.loads(record["payload"]) != json.loads(row["payload"]):
            faults.append(f"{record['topic']} has {name} as {record}, it is {row}")
        if name not in stood:
            stood.add(name)
            if row["aggregate"] != "cart" and last.get((row["topic"], key), 0) > row["id"]:
                faults.append(f"{row['type']} of {key} stands behind a later event of it")
            last[row["topic"], key] = max(row["id"], last.get((row["topic"], key), 0))
    for name, row in told.items():
        if name not in stood:
            faults += missing(shop, name, row) if len(faults) < 20 else []
    return (faults + [f"{key} is in partitions {found} of {topic}" for (topic, key), found in places.items() if len(found) > 1])[:100]


def missing(shop, name, row):
    """An event that the outbox has as sent and kcat did not find: whether the broker has it, and what happened at that time."""
    key = f"{row['tenant_id']}:{row['aggregate_id']}"
    found = shop.broker.dump(row["topic"], key)
    clock = row["created_at"].astimezone(datetime.timezone.utc)
    return [f"{row['type']} {name} is not on {row['topic']}: id {row['id']}, key {key}, shard {row['shard']}, written {row['created_at']}, "
            f"topics since {shop.broker.last}; in the broker's files {found or 'nothing has this key'}",
            *(f"  {line}" for line in shop.broker.around(clock)[:40])]


def tenants_are_apart(shop):
    """Nothing of one tenant is tied to another's."""
    faults = []
    for what, query in {
        "orders of another tenant's user": "SELECT o.id::text AS id FROM shop.orders o JOIN shop.app_user u ON u.id = o.user_id "
                                           "WHERE u.tenant_id <> o.tenant_id",
        "lines of another tenant's product": "SELECT i.order_id::text AS id FROM shop.order_item i WHERE NOT EXISTS (SELECT FROM "
                                             "shop.product p WHERE p.tenant_id = i.tenant_id AND p.id = i.product_id)",
        "events of another tenant's order": "SELECT e.aggregate_id AS id FROM event.outbox e JOIN shop.orders o "
                                            "ON o.id::text = e.aggregate_id WHERE e.aggregate = 'order' AND e.tenant_id <> o.tenant_id",
    }.items():
        faults += [f"{what}: {row['id']}" for row in shop.rows(query)]
    return faults


CHECKS = [every_buyer_knows, nothing_is_lost, nothing_twice, nobody_pays_twice, sagas_end, one_mail_each, events_are_written]
BOOKS = [one_order_per_cart, stock_is_what_moved, money_adds_up, events_are_delivered, effects_are_once, topics_have_it_all, tenants_are_apart]
