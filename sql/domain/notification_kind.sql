-- What can be told: kinds of notifications, and the words that are shipped for them in English and German. A shop's own words go before.

-- transactional: nobody can switch it off. raw: names whose value is HTML already. sample: data for previews.
CREATE OR REPLACE FUNCTION domain.notification_kinds(OUT kind text, OUT transactional boolean, OUT raw text[], OUT about text, OUT sample jsonb)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $$
    SELECT k.kind, k.transactional, k.raw::text[], k.about, s.common || k.sample::jsonb
      FROM (VALUES
    ('verify-email',        true,  '{}', 'A registration that is to be confirmed', '{"token": "q7Yk2eF0r5v9J3nB8sXwLd1TzPmHc6Ga4UiVoKbRfEA"}'),
    ('account-exists',      true,  '{}', 'Somebody has registered with an address that has an account', '{}'),
    ('password-reset',      true,  '{}', 'A link for a new password', '{"token": "q7Yk2eF0r5v9J3nB8sXwLd1TzPmHc6Ga4UiVoKbRfEA"}'),
    ('password-changed',    true,  '{}', 'The password has been changed', '{}'),
    ('email-change',        true,  '{}', 'A new address that is to be confirmed', '{"token": "q7Yk2eF0r5v9J3nB8sXwLd1TzPmHc6Ga4UiVoKbRfEA"}'),
    ('email-change-notice', true,  '{}', 'To the old address: a change has been asked for', '{}'),
    ('email-changed',       true,  '{}', 'To the old address: it has been changed', '{}'),
    ('staff-invitation',    true,  '{}', 'An account of staff', '{"token": "q7Yk2eF0r5v9J3nB8sXwLd1TzPmHc6Ga4UiVoKbRfEA", "invited_by": "Grace Hopper"}'),
    ('totp-enrolled',       true,  '{}', 'One-time passwords are on', '{}'),
    ('totp-removed',        true,  '{}', 'One-time passwords are off', '{}'),
    ('order-confirmation',  true,  '{}', 'An order has been confirmed', '{}'),
    ('order-cancelled',     true,  '{}', 'An order has been cancelled', '{}'),
    ('order-refunded',      true,  '{}', 'Money goes back', '{"refund": {"amount": {"amount": 1999, "currency": "EUR"}}}'),
    ('shipping-update',     false, '{}', 'An order is on its way', '{"tracking": {"carrier": "Post", "number": "00340434", "url": "https://shop.example/track/00340434"}}'),
    ('order-delivered',     false, '{}', 'An order has arrived', '{}'),
    ('message',             false, '{html}', 'What the shop''s staff or programs say with POST /send', '{"subject": "News", "text": "There is something new.", "html": "<p>There is something <b>new</b>.</p>"}'),
    ('webhook-failing',     true,  '{}', 'To the shop: an endpoint does not take its events', '{"url": "https://hooks.example/shop", "error": "503", "attempts": 10}'),
    ('webhook-disabled',    true,  '{}', 'To the shop: an endpoint has said that it is gone', '{"url": "https://hooks.example/shop"}')
           ) AS k (kind, transactional, raw, about, sample)
     CROSS JOIN (SELECT '{"name": "Ada Lovelace", "language": "en",
                          "shop": {"name": "Shop", "url": "https://shop.example", "logo_url": null, "support_email": "help@shop.example", "color": "#1f4fd8"},
                          "order": {"id": "01a1fe04-3bd7-761d-b3f9-3a1fa896ba91", "number": "YZ2NAE08", "date": "2026-11-21", "status": "confirmed",
                                    "items": [{"name": "Desk lamp", "sku": "LAMP-1", "quantity": 2, "unit_price": {"amount": 1999, "currency": "EUR"},
                                               "total": {"amount": 3998, "currency": "EUR"}}],
                                    "subtotal": {"amount": 3998, "currency": "EUR"}, "discount": null, "shipping": {"amount": 499, "currency": "EUR"},
                                    "tax": {"amount": 718, "currency": "EUR"}, "tax_inclusive": true, "total": {"amount": 4497, "currency": "EUR"},
                                    "address": ["Ada Lovelace", "1 Road", "12345 Town", "DE"]}}'::jsonb AS common) s
$$;

-- The words that are shipped. Where html is NULL it is made of the text; "layout" goes around every HTML part.
CREATE OR REPLACE FUNCTION domain.template_shipped(OUT kind text, OUT channel text, OUT language text, OUT subject text, OUT text text, OUT html text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $$
    VALUES
    ('layout', 'email', 'en', NULL, NULL, '<!DOCTYPE html>
<html lang="{{language}}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{subject}}</title></head>
<body style="margin:0;background:#f4f4f5;font-family:system-ui,-apple-system,Segoe UI,Roboto,Helvetica,Arial,sans-serif;color:#18181b;line-height:1.5">
<div style="max-width:36em;margin:0 auto;padding:1.5em">
{{#shop.logo_url}}
<p style="text-align:center"><a href="{{shop.url}}"><img src="{{shop.logo_url}}" alt="{{shop.name}}" height="48" style="border:0"></a></p>
{{/shop.logo_url}}
{{^shop.logo_url}}
<p style="text-align:center;font-size:1.25em;font-weight:600;color:{{shop.color}}">{{shop.name}}</p>
{{/shop.logo_url}}
<div style="background:#fff;border-radius:.5em;padding:1.5em">
{{{content}}}
</div>
<p style="text-align:center;font-size:.8em;color:#71717a">{{shop.name}}{{#shop.support_email}} · <a href="mailto:{{shop.support_email}}" style="color:#71717a">{{shop.support_email}}</a>{{/shop.support_email}}</p>
</div>
</body>
</html>
'),
    ('verify-email', 'email', 'en', 'Confirm your e-mail address', 'Hello{{#name}} {{name}}{{/name}},

please confirm that this address is yours:

{{shop.url}}/verify-email?token={{token}}

If you have not registered at {{shop.name}}, do nothing: there is no account without this link.
', NULL),
    ('verify-email', 'email', 'de', 'Bestätigen Sie Ihre E-Mail-Adresse', 'Guten Tag{{#name}} {{name}}{{/name}},

bitte bestätigen Sie, dass diese Adresse Ihre ist:

{{shop.url}}/verify-email?token={{token}}

Wenn Sie sich nicht bei {{shop.name}} angemeldet haben, tun Sie nichts: Ohne diesen Link entsteht kein Konto.
', NULL),
    ('account-exists', 'email', 'en', 'You have an account already', 'Hello{{#name}} {{name}}{{/name}},

somebody, probably you, has tried to register at {{shop.name}} with this address. It has an account already. If you do not know the
password any more, ask for a new one:

{{shop.url}}/forgot-password
', NULL),
    ('account-exists', 'email', 'de', 'Sie haben schon ein Konto', 'Guten Tag{{#name}} {{name}}{{/name}},

jemand, wahrscheinlich Sie, wollte sich mit dieser Adresse bei {{shop.name}} anmelden. Es gibt dazu schon ein Konto. Wenn Sie das
Passwort nicht mehr kennen, fordern Sie ein neues an:

{{shop.url}}/forgot-password
', NULL),
    ('password-reset', 'email', 'en', 'A new password', 'Hello{{#name}} {{name}}{{/name}},

with this link you can set a new password. It works once, and not for long:

{{shop.url}}/reset-password?token={{token}}

If you have not asked for it, do nothing: your password stays as it is.
', NULL),
    ('password-reset', 'email', 'de', 'Ein neues Passwort', 'Guten Tag{{#name}} {{name}}{{/name}},

mit diesem Link können Sie ein neues Passwort setzen. Er gilt einmal und nicht lange:

{{shop.url}}/reset-password?token={{token}}

Wenn Sie ihn nicht angefordert haben, tun Sie nichts: Ihr Passwort bleibt, wie es ist.
', NULL),
    ('password-changed', 'email', 'en', 'Your password has been changed', 'Hello{{#name}} {{name}}{{/name}},

the password of your account at {{shop.name}} has been changed. If that was not you, set a new one at once:

{{shop.url}}/forgot-password
', NULL),
    ('password-changed', 'email', 'de', 'Ihr Passwort wurde geändert', 'Guten Tag{{#name}} {{name}}{{/name}},

das Passwort Ihres Kontos bei {{shop.name}} wurde geändert. Wenn Sie das nicht waren, setzen Sie sofort ein neues:

{{shop.url}}/forgot-password
', NULL),
    ('email-change', 'email', 'en', 'Confirm your new e-mail address', 'Hello{{#name}} {{name}}{{/name}},

please confirm that your account at {{shop.name}} is to have this address from now on:

{{shop.url}}/confirm-email?token={{token}}

If you do not know of this, do nothing.
', NULL),
    ('email-change', 'email', 'de', 'Bestätigen Sie Ihre neue E-Mail-Adresse', 'Guten Tag{{#name}} {{name}}{{/name}},

bitte bestätigen Sie, dass Ihr Konto bei {{shop.name}} künftig diese Adresse haben soll:

{{shop.url}}/confirm-email?token={{token}}

Wenn Sie davon nichts wissen, tun Sie nichts.
', NULL),
    ('email-change-notice', 'email', 'en', 'A change of your e-mail address has been asked for', 'Hello{{#name}} {{name}}{{/name}},

somebody who knows your password has asked to change the address of your account at {{shop.name}}. Until the new one is confirmed
nothing changes. If that was not you, set a new password:

{{shop.url}}/forgot-password
', NULL),
    ('email-change-notice', 'email', 'de', 'Ihre E-Mail-Adresse soll geändert werden', 'Guten Tag{{#name}} {{name}}{{/name}},

jemand, der Ihr Passwort kennt, möchte die Adresse Ihres Kontos bei {{shop.name}} ändern. Bis die neue bestätigt ist, ändert sich
nichts. Wenn Sie das nicht waren, setzen Sie ein neues Passwort:

{{shop.url}}/forgot-password
', NULL),
    ('email-changed', 'email', 'en', 'Your e-mail address has been changed', 'Hello{{#name}} {{name}}{{/name}},

your account at {{shop.name}} has another address now. If that was not you, write to us{{#shop.support_email}}: {{shop.support_email}}{{/shop.support_email}}.
', NULL),
    ('email-changed', 'email', 'de', 'Ihre E-Mail-Adresse wurde geändert', 'Guten Tag{{#name}} {{name}}{{/name}},

Ihr Konto bei {{shop.name}} hat jetzt eine andere Adresse. Wenn Sie das nicht waren, schreiben Sie uns{{#shop.support_email}}: {{shop.support_email}}{{/shop.support_email}}.
', NULL),
    ('staff-invitation', 'email', 'en', 'Your account at {{shop.name}}', 'Hello{{#name}} {{name}}{{/name}},

{{invited_by}} has made an account for you in the back office of {{shop.name}}. Choose a password here:

{{shop.url}}/accept-invitation?token={{token}}
', NULL),
    ('staff-invitation', 'email', 'de', 'Ihr Konto bei {{shop.name}}', 'Guten Tag{{#name}} {{name}}{{/name}},

{{invited_by}} hat für Sie ein Konto in der Verwaltung von {{shop.name}} angelegt. Wählen Sie hier ein Passwort:

{{shop.url}}/accept-invitation?token={{token}}
', NULL),
    ('totp-enrolled', 'email', 'en', 'One-time passwords are on', 'Hello{{#name}} {{name}}{{/name}},

from now on your account at {{shop.name}} asks for a one-time password. If that was not you, tell an owner of the shop at once.
', NULL),
    ('totp-enrolled', 'email', 'de', 'Einmalpasswörter sind eingeschaltet', 'Guten Tag{{#name}} {{name}}{{/name}},

Ihr Konto bei {{shop.name}} verlangt ab jetzt ein Einmalpasswort. Wenn Sie das nicht waren, sagen Sie es sofort einem Inhaber des Shops.
', NULL),
    ('totp-removed', 'email', 'en', 'One-time passwords are off', 'Hello{{#name}} {{name}}{{/name}},

your account at {{shop.name}} does not ask for one-time passwords any more. If you do not know of this, tell an owner of the shop at once.
', NULL),
    ('totp-removed', 'email', 'de', 'Einmalpasswörter sind ausgeschaltet', 'Guten Tag{{#name}} {{name}}{{/name}},

Ihr Konto bei {{shop.name}} verlangt keine Einmalpasswörter mehr. Wenn Sie davon nichts wissen, sagen Sie es sofort einem Inhaber des Shops.
', NULL),
    ('order-confirmation', 'email', 'en', 'Your order {{order.number}}', 'Hello{{#name}} {{name}}{{/name}},

thank you for your order {{order.number}} of {{order.date}}.

{{#order.items}}
{{quantity}} x {{name}}: {{total}}
{{/order.items}}

Subtotal: {{order.subtotal}}
{{#order.discount}}
Discount: -{{order.discount}}
{{/order.discount}}
Shipping: {{order.shipping}}
Tax{{#order.tax_inclusive}} (included){{/order.tax_inclusive}}: {{order.tax}}
Total: {{order.total}}
{{#order.has_address}}

It goes to:
{{#order.address}}
{{.}}
{{/order.address}}
{{/order.has_address}}

{{shop.url}}/orders/{{order.id}}
', '<p>Hello{{#name}} {{name}}{{/name}},</p>
<p>thank you for your order <b>{{order.number}}</b> of {{order.date}}.</p>
<table style="width:100%;border-collapse:collapse">
{{#order.items}}
<tr><td style="padding:.25em 0">{{quantity}} × {{name}}</td><td style="text-align:right">{{total}}</td></tr>
{{/order.items}}
<tr><td style="padding-top:1em">Subtotal</td><td style="padding-top:1em;text-align:right">{{order.subtotal}}</td></tr>
{{#order.discount}}
<tr><td>Discount</td><td style="text-align:right">-{{order.discount}}</td></tr>
{{/order.discount}}
<tr><td>Shipping</td><td style="text-align:right">{{order.shipping}}</td></tr>
<tr><td>Tax{{#order.tax_inclusive}} (included){{/order.tax_inclusive}}</td><td style="text-align:right">{{order.tax}}</td></tr>
<tr><td><b>Total</b></td><td style="text-align:right"><b>{{order.total}}</b></td></tr>
</table>
{{#order.has_address}}
<p>It goes to:<br>{{#order.address}}{{.}}<br>{{/order.address}}</p>
{{/order.has_address}}
<p><a href="{{shop.url}}/orders/{{order.id}}" style="color:{{shop.color}}">See the order</a></p>
'),
    ('order-confirmation', 'email', 'de', 'Ihre Bestellung {{order.number}}', 'Guten Tag{{#name}} {{name}}{{/name}},

vielen Dank für Ihre Bestellung {{order.number}} vom {{order.date}}.

{{#order.items}}
{{quantity}} x {{name}}: {{total}}
{{/order.items}}

Zwischensumme: {{order.subtotal}}
{{#order.discount}}
Rabatt: -{{order.discount}}
{{/order.discount}}
Versand: {{order.shipping}}
Steuer{{#order.tax_inclusive}} (enthalten){{/order.tax_inclusive}}: {{order.tax}}
Gesamt: {{order.total}}
{{#order.has_address}}

Wir liefern an:
{{#order.address}}
{{.}}
{{/order.address}}
{{/order.has_address}}

{{shop.url}}/orders/{{order.id}}
', '<p>Guten Tag{{#name}} {{name}}{{/name}},</p>
<p>vielen Dank für Ihre Bestellung <b>{{order.number}}</b> vom {{order.date}}.</p>
<table style="width:100%;border-collapse:collapse">
{{#order.items}}
<tr><td style="padding:.25em 0">{{quantity}} × {{name}}</td><td style="text-align:right">{{total}}</td></tr>
{{/order.items}}
<tr><td style="padding-top:1em">Zwischensumme</td><td style="padding-top:1em;text-align:right">{{order.subtotal}}</td></tr>
{{#order.discount}}
<tr><td>Rabatt</td><td style="text-align:right">-{{order.discount}}</td></tr>
{{/order.discount}}
<tr><td>Versand</td><td style="text-align:right">{{order.shipping}}</td></tr>
<tr><td>Steuer{{#order.tax_inclusive}} (enthalten){{/order.tax_inclusive}}</td><td style="text-align:right">{{order.tax}}</td></tr>
<tr><td><b>Gesamt</b></td><td style="text-align:right"><b>{{order.total}}</b></td></tr>
</table>
{{#order.has_address}}
<p>Wir liefern an:<br>{{#order.address}}{{.}}<br>{{/order.address}}</p>
{{/order.has_address}}
<p><a href="{{shop.url}}/orders/{{order.id}}" style="color:{{shop.color}}">Zur Bestellung</a></p>
'),
    ('order-cancelled', 'email', 'en', 'Your order {{order.number}} is cancelled', 'Hello{{#name}} {{name}}{{/name}},

your order {{order.number}} of {{order.date}} has been cancelled. What you have paid for it goes back to you.

{{shop.url}}/orders/{{order.id}}
', NULL),
    ('order-cancelled', 'email', 'de', 'Ihre Bestellung {{order.number}} ist storniert', 'Guten Tag{{#name}} {{name}}{{/name}},

Ihre Bestellung {{order.number}} vom {{order.date}} wurde storniert. Was Sie dafür bezahlt haben, bekommen Sie zurück.

{{shop.url}}/orders/{{order.id}}
', NULL),
    ('order-refunded', 'email', 'en', 'Your money back for order {{order.number}}', 'Hello{{#name}} {{name}}{{/name}},

for your order {{order.number}} you get {{refund.amount}} back. Until it is in your account may take some days.

{{shop.url}}/orders/{{order.id}}
', NULL),
    ('order-refunded', 'email', 'de', 'Erstattung zu Ihrer Bestellung {{order.number}}', 'Guten Tag{{#name}} {{name}}{{/name}},

zu Ihrer Bestellung {{order.number}} erstatten wir {{refund.amount}}. Bis es auf Ihrem Konto ist, kann es einige Tage dauern.

{{shop.url}}/orders/{{order.id}}
', NULL),
    ('shipping-update', 'email', 'en', 'Your order {{order.number}} is on its way', 'Hello{{#name}} {{name}}{{/name}},

your order {{order.number}} is on its way.
{{#tracking.number}}

{{tracking.carrier}} {{tracking.number}}{{#tracking.url}}: {{tracking.url}}{{/tracking.url}}
{{/tracking.number}}

{{shop.url}}/orders/{{order.id}}
', NULL),
    ('shipping-update', 'email', 'de', 'Ihre Bestellung {{order.number}} ist unterwegs', 'Guten Tag{{#name}} {{name}}{{/name}},

Ihre Bestellung {{order.number}} ist unterwegs.
{{#tracking.number}}

{{tracking.carrier}} {{tracking.number}}{{#tracking.url}}: {{tracking.url}}{{/tracking.url}}
{{/tracking.number}}

{{shop.url}}/orders/{{order.id}}
', NULL),
    ('shipping-update', 'sms', 'en', NULL, '{{shop.name}}: order {{order.number}} is on its way.{{#tracking.url}} {{tracking.url}}{{/tracking.url}}', NULL),
    ('shipping-update', 'sms', 'de', NULL, '{{shop.name}}: Bestellung {{order.number}} ist unterwegs.{{#tracking.url}} {{tracking.url}}{{/tracking.url}}', NULL),
    ('shipping-update', 'push', 'en', 'On its way', 'Your order {{order.number}} is on its way.', NULL),
    ('shipping-update', 'push', 'de', 'Unterwegs', 'Ihre Bestellung {{order.number}} ist unterwegs.', NULL),
    ('order-delivered', 'email', 'en', 'Your order {{order.number}} has arrived', 'Hello{{#name}} {{name}}{{/name}},

your order {{order.number}} has been delivered. We hope you like it.

{{shop.url}}/orders/{{order.id}}
', NULL),
    ('order-delivered', 'email', 'de', 'Ihre Bestellung {{order.number}} ist angekommen', 'Guten Tag{{#name}} {{name}}{{/name}},

Ihre Bestellung {{order.number}} wurde zugestellt. Viel Freude damit.

{{shop.url}}/orders/{{order.id}}
', NULL),
    ('message', 'email', 'en', '{{subject}}', '{{text}}
', '{{{html}}}'),
    ('message', 'sms', 'en', NULL, '{{text}}', NULL),
    ('message', 'push', 'en', '{{subject}}', '{{text}}', NULL),
    ('webhook-failing', 'email', 'en', 'A webhook of {{shop.name}} does not work', 'The endpoint

{{url}}

has not taken an event in {{attempts}} tries over three days. The last answer was: {{error}}. It still gets new events; those that were
given up can be sent again from the delivery log.
', NULL),
    ('webhook-failing', 'email', 'de', 'Ein Webhook von {{shop.name}} geht nicht', 'Der Endpunkt

{{url}}

hat ein Ereignis in {{attempts}} Versuchen über drei Tage nicht angenommen. Die letzte Antwort war: {{error}}. Neue Ereignisse bekommt er
weiterhin; aufgegebene können aus dem Protokoll noch einmal gesendet werden.
', NULL),
    ('webhook-disabled', 'email', 'en', 'A webhook of {{shop.name}} is switched off', 'The endpoint

{{url}}

has answered 410 Gone. It gets nothing any more until somebody switches it on again.
', NULL),
    ('webhook-disabled', 'email', 'de', 'Ein Webhook von {{shop.name}} ist abgeschaltet', 'Der Endpunkt

{{url}}

hat mit 410 Gone geantwortet. Er bekommt nichts mehr, bis ihn jemand wieder einschaltet.
', NULL)
$$;
