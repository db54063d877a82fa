"""Organizations with as many rows as a test wants, whose queries it explains."""

from hashlib import md5
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.rows import change

# An id for each number, another one in each organization.
_ID = "CAST(lpad(to_hex({}), 12, '0') || '7000' || '8' || substr(md5(:organization), 1, 15) AS uuid)"
_CREDENTIAL = _ID.format("c")
_COUNTERS = "1, 0, 0, 0, 1, 0"
_FILL = (
    f"""INSERT INTO provider_credential (organization_id, id, provider, label, state, revision, current_key_version,
            previous_key_version, created_at, created_by, updated_at)
        SELECT :organization, {_CREDENTIAL}, 'anthropic', 'x', 'active', 1, :each, :each - 1, now(), 'ada', now()
        FROM generate_series(1, :credentials) c""",
    f"""INSERT INTO credential_version (organization_id, credential_id, key_version, state, intent_id,
            expected_store_version, store_version, base_url, messages_url, auth_style, fingerprint, created_at, created_by,
            activated_at, latest_status)
        SELECT :organization, {_CREDENTIAL}, n, CASE n WHEN :each THEN 'active' ELSE 'previous' END, gen_random_uuid(), n - 1,
            n, CASE c % 2 WHEN 0 THEN 'https://gateway.example.com' END, 'https://x/v1/messages', 'x_api_key', '', now(),
            'ada', now() - (:each - n) * interval '1 minute', 'valid'
        FROM generate_series(1, :credentials) c, generate_series(1, :each) n""",
    f"""INSERT INTO credential_rotation (organization_id, id, credential_id, key_version, state, activate, destroy_previous,
            created_at, created_by)
        SELECT :organization, gen_random_uuid(), {_CREDENTIAL}, n, CASE n WHEN :each THEN 'pending' ELSE 'activated' END,
            'immediately', 'immediately', now(), 'ada'
        FROM generate_series(1, :credentials) c, generate_series(2, :each) n""",
    f"""INSERT INTO credential_validation (organization_id, id, credential_id, key_version, status, reason, trigger,
            requested_by, created_at, deadline_at)
        SELECT :organization, gen_random_uuid(), {_CREDENTIAL}, n, 'valid', 'ok', 'save', 'ada', now(), now()
        FROM generate_series(1, :credentials) c, generate_series(1, :each) n""",
    f"""INSERT INTO webhook_endpoint (organization_id, id, url, state, intent_id, created_at, created_by, store_version)
        SELECT :organization, {_ID.format("1")}, 'https://example.com', 'active', gen_random_uuid(), now(), 'ada', 1""",
    f"""INSERT INTO webhook_delivery (organization_id, id, endpoint_id, type, body, state, attempts, created_at)
        SELECT :organization, {_ID.format("n")}, {_ID.format("1")}, 'x', '{{}}', 'pending', 0, now()
        FROM generate_series(1, :credentials * :each) n""",
    """INSERT INTO job_queue (organization_id, kind, id, due_at)
        SELECT organization_id, 'deliver_webhook', id, now() FROM webhook_delivery
        WHERE organization_id = :organization""",
    f"""INSERT INTO usage_event (organization_id, started_at, event_id, correction, ingested_at, ingest_xid, mode,
            credential_id, key_version, model, outcome, usage_source, uncached_input_tokens, cache_write_5m_tokens,
            cache_write_1h_tokens, cache_read_tokens, output_tokens, web_search_requests, billed, flags)
        SELECT :organization, now() - n * interval '1 second', CAST(n AS text), 0, now(), 1, 'byo', {_CREDENTIAL},
            1 + n / :credentials, 'm', 'succeeded', 'reported', {_COUNTERS}, 0, 0
        FROM generate_series(0, :credentials * :each - 1) n, LATERAL (SELECT 1 + n % :credentials AS c) x""",
    f"""INSERT INTO usage_event (organization_id, started_at, event_id, correction, ingested_at, ingest_xid, mode, model,
            outcome, usage_source, uncached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cache_read_tokens,
            output_tokens, web_search_requests, cost, billed, flags)
        SELECT organization_id, started_at, event_id, 1, now(), 1, mode, model, outcome, usage_source, {_COUNTERS}, 1, 0, 0
        FROM usage_event WHERE organization_id = :organization AND CAST(event_id AS integer) % 2 = 1""",
    """INSERT INTO usage_event_key (organization_id, event_id, payload_hash, started_at)
        SELECT DISTINCT organization_id, event_id, CAST('' AS bytea), started_at FROM usage_event
        WHERE organization_id = :organization""",
    f"""INSERT INTO spend_limit (organization_id, id, name, amount, period, scope_mode, enforcement, thresholds, counts_from,
            revision, created_at, created_by, updated_at)
        SELECT :organization, {_CREDENTIAL}, 'x', 1, 'day', 'any', 'block', '{{}}', now(), 1, now(), 'ada', now()
        FROM generate_series(1, :credentials) c""",
    f"""INSERT INTO spend_counter (organization_id, limit_id, period_starts_at, settled_managed, settled_byo, reserved,
            unpriced)
        SELECT :organization, {_CREDENTIAL}, date_trunc('day', now(), 'UTC') - n * interval '1 day', 0, 0, 0, 0
        FROM generate_series(1, :credentials) c, generate_series(0, :each - 1) n""",
    f"""INSERT INTO spend_reservation (organization_id, id, amount, mode, state, created_at, created_by, expires_at,
            unpriced_rows)
        SELECT :organization, {_ID.format("n")}, 1, 'byo', 'open', now(), 'service', now(), 0
        FROM generate_series(1, :credentials * :each) n""",
    """INSERT INTO price_override_list (organization_id, number, effective_from, created_at, created_by)
        SELECT :organization, c, at, at, 'ada'
        FROM generate_series(1, :credentials) c, LATERAL (SELECT now() - (100 - c) * interval '1 minute' AS at) x""",
    """INSERT INTO price_override (organization_id, number, model, uncached_input, output)
        SELECT :organization, c, CAST(n AS text), 1, 1
        FROM generate_series(1, :credentials) c, generate_series(1, :each) n""",
    """INSERT INTO usage_day SELECT :organization, date_trunc('day', now(), 'UTC') - n * interval '1 day', 'byo',
            CAST(c AS text), 1, 1, 1, 1, 1, 1, 1, 1, 1, 1
        FROM generate_series(1, :credentials) c, generate_series(1, :each) n""",
)
# Of one database, whose statistics then are those that a test makes.
_WITHOUT_AUTOVACUUM = """
    DO $$ DECLARE name regclass; BEGIN
        FOR name IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
        LOOP EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false)', name); END LOOP;
    END $$
"""


def id_of(organization: str, number: int) -> UUID:
    """The id of the organization's credential, endpoint, delivery, limit or reservation with this number, from 1."""
    digest = md5(organization.encode(), usedforsecurity=False).hexdigest()
    return UUID(f"{number:012x}70008{digest[:15]}")


async def stop_autovacuum(superuser: AsyncEngine) -> None:
    await change(superuser, _WITHOUT_AUTOVACUUM)


async def fill(superuser: AsyncEngine, organization: str, *, credentials: int, each: int) -> None:
    """Add credentials, limits and price lists, and for each of them this number of versions, counters and prices.

    Also as many deliveries of one endpoint, reservations and events as there are versions. Every other event has got a price.
    """
    for statement in _FILL:
        numbered = statement.replace(":credentials", str(credentials)).replace(":each", str(each))
        await change(superuser, numbered, organization=organization)
