-- Roles and database of the service. Run once, as a superuser of the server, with psql 14 or newer:
--
--   OWNER_PASSWORD=... SERVICE_PASSWORD=... psql -v ON_ERROR_STOP=1 -d postgres -f docs/deploy/roles.sql
--
-- Servers may log statements. To keep the passwords out of that log, leave the two variables
-- unset and set the passwords afterwards with psql's \password byok_owner and \password byok_app.

\set owner_password ''
\set service_password ''
\getenv owner_password OWNER_PASSWORD
\getenv service_password SERVICE_PASSWORD

-- Holds what the service may do. The migrations grant it table by table; nobody logs in with it.
CREATE ROLE byok_service NOLOGIN NOSUPERUSER NOBYPASSRLS;

-- Owns the tables and migrates: BYOK_DATABASE__MIGRATION_URL, for `byok migrate` alone.
CREATE ROLE byok_owner LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD :'owner_password';

-- What the service logs in with: BYOK_DATABASE__URL. A mere member of byok_service.
CREATE ROLE byok_app LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD :'service_password' IN ROLE byok_service;

CREATE DATABASE byok OWNER byok_owner;
REVOKE ALL ON DATABASE byok FROM PUBLIC;
GRANT CONNECT ON DATABASE byok TO byok_service;
