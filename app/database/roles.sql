-- Roles and database of the service. Run it with psql 14 or newer, connected to the database "postgres" as a superuser or, on
-- managed PostgreSQL, as the administrator that may create roles and databases:
--
--   OWNER_PASSWORD=... SERVICE_PASSWORD=... psql -X -v ON_ERROR_STOP=1 -d postgres -f docs/deploy/roles.sql
--
-- It may be run again: it creates what is missing, sets the passwords that are given, and gives byok_owner the tables that another role,
-- such as a superuser, has migrated. The last step needs a superuser, or a member of that other role. Nothing after this script does.
-- The database has the name byok, or the one in `-v database=...`.
--
-- Servers may log statements. To keep the passwords out of that log, leave the two variables
-- unset and set the passwords afterwards with psql's \password byok_owner and \password byok_app.

\set QUIET on
SET client_min_messages = warning;
\if :{?database}
\else
\set database byok
\endif
\set owner_password ''
\set service_password ''
\getenv owner_password OWNER_PASSWORD
\getenv service_password SERVICE_PASSWORD

-- Two runs at the same time would try to create the same roles.
\o /dev/null
SELECT pg_advisory_lock(hashtext('byok.roles'));
\o

-- Holds what the service may do. The migrations grant it table by table. It cannot log in.
SELECT 'CREATE ROLE byok_service NOLOGIN NOSUPERUSER NOBYPASSRLS'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'byok_service') \gexec

-- Owns the tables and migrates: BYOK_DATABASE__MIGRATION_URL, only for `byok migrate`.
SELECT 'CREATE ROLE byok_owner LOGIN NOSUPERUSER NOBYPASSRLS'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'byok_owner') \gexec

-- The service's login: BYOK_DATABASE__URL. Only a member of byok_service.
SELECT 'CREATE ROLE byok_app LOGIN NOSUPERUSER NOBYPASSRLS IN ROLE byok_service'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'byok_app') \gexec

SELECT format('ALTER ROLE byok_owner PASSWORD %L', :'owner_password') WHERE :'owner_password' <> '' \gexec
SELECT format('ALTER ROLE byok_app PASSWORD %L', :'service_password') WHERE :'service_password' <> '' \gexec

-- Only a member of a role may give a database to it. A superuser is a member of every role; another administrator becomes one for as long
-- as this script runs.
SELECT NOT pg_has_role('byok_owner', 'USAGE') AS joins_owner \gset
\if :joins_owner
GRANT byok_owner TO CURRENT_USER;
\endif

-- The database is in UTF-8, even if the server was set up in another encoding, as without a locale. Most locales allow only one
-- encoding; C allows each.
SELECT format('CREATE DATABASE %I OWNER byok_owner', :'database') || CASE
    WHEN pg_encoding_to_char(usual.encoding) = 'UTF8' THEN ''
    WHEN empty.datctype || ' ' || empty.datcollate ~* '^(C|POSIX|\S*utf-?8) (C|POSIX|\S*utf-?8)$'
        THEN ' TEMPLATE template0 ENCODING ''UTF8'''
    ELSE ' TEMPLATE template0 ENCODING ''UTF8'' LC_COLLATE ''C'' LC_CTYPE ''C''' END
FROM pg_database usual, pg_database empty
WHERE usual.datname = 'template1' AND empty.datname = 'template0'
AND NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
SELECT format('ALTER DATABASE %I OWNER TO byok_owner', :'database')
FROM pg_database WHERE datname = :'database' AND datdba <> 'byok_owner'::regrole \gexec
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO byok_service;

-- Hand over what another role has migrated, all or nothing. The grants to byok_service stay.
\connect :"database"
SET client_min_messages = warning;
SET lock_timeout = '10s';
DO $$
DECLARE
    statement text;
    schemas text[] := '{public, cells}';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('byok.migrations'));  -- no migration at the same time
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE WARNING 'The database has the encoding %, and the service needs UTF8. Dump it, drop it, run this script, and restore it.',
            getdatabaseencoding();
    END IF;
    -- A server that was upgraded from version 14 or older still has the schema of those versions.
    IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public' AND NOT pg_has_role('byok_owner', nspowner, 'USAGE')) THEN
        ALTER SCHEMA public OWNER TO pg_database_owner;
        REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    END IF;
    IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'cells' AND nspowner <> 'byok_owner'::regrole) THEN
        ALTER SCHEMA cells OWNER TO byok_owner;
    END IF;
    -- Cells have the tables of the service. The names in cells.cell are not used: byok_owner may change them, and a superuser would hand
    -- over whatever schema they name.
    schemas := schemas || ARRAY(SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND c.relname = 'provider_credential' AND n.nspname !~ '^pg_');
    FOR statement IN
        SELECT format('ALTER SCHEMA %I OWNER TO byok_owner', nspname)
        FROM pg_namespace
        WHERE nspname = ANY (schemas) AND nspname <> 'public' AND nspowner <> 'byok_owner'::regrole
        UNION ALL
        SELECT format('ALTER TABLE %s OWNER TO byok_owner', c.oid::regclass)
        FROM pg_class c
        WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname = ANY (schemas)) AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        AND c.relowner <> 'byok_owner'::regrole
        -- An extension keeps its own. A column's sequence follows its table.
        AND NOT EXISTS (SELECT FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
            AND (d.deptype = 'e' OR c.relkind = 'S' AND d.deptype IN ('a', 'i')))
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO byok_owner', p.oid::regprocedure)
        FROM pg_proc p
        WHERE p.pronamespace IN (SELECT oid FROM pg_namespace WHERE nspname = ANY (schemas)) AND p.proowner <> 'byok_owner'::regrole
        AND NOT EXISTS (SELECT FROM pg_depend d
            WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE statement;
    END LOOP;
END $$;

\if :joins_owner
REVOKE byok_owner FROM CURRENT_USER;
\endif
