-- What the program may do to the database when it runs, as opposed to when it migrates: read
-- and write rows, but only add to the activity log. Run after every migration, so that no
-- migration has to think of it; it does nothing when nothing is missing.
--
-- A user who may not make roles gets a warning, and an administrator who makes the role and
-- grants it to that user before the next `bondmate migrate`.
DO $$
DECLARE
    app CONSTANT name := 'bondmate_app';
    member boolean;
    t record;
BEGIN
    -- Two at once would change the same rows of the catalogue.
    PERFORM pg_advisory_xact_lock(7094988742164374372);
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = app) THEN
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', app);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL; -- another database of this server was faster
            WHEN insufficient_privilege THEN
                RAISE WARNING 'role % is missing and % may not make it: the activity log is not append-only', app, current_user;
                RETURN;
        END;
    END IF;
    -- From PostgreSQL 16 on, who makes a role may grant it, but not assume it.
    IF current_setting('server_version_num')::integer >= 160000 THEN
        member := pg_has_role(app, 'SET');
    ELSE
        member := pg_has_role(app, 'MEMBER');
    END IF;
    IF NOT member THEN
        BEGIN
            EXECUTE format('GRANT %I TO %I', app, current_user);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE WARNING '% may not assume role %: the activity log is append-only for other users of it alone', current_user, app;
        END;
    END IF;
    IF NOT has_schema_privilege(app, current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), app);
    END IF;
    FOR t IN
        SELECT c.oid, c.oid::regclass AS name,
               CASE WHEN c.relname = 'activity_log' THEN '{SELECT,INSERT}'
                    WHEN c.relname LIKE 'activity\_log\_%' THEN '{}' -- rows go through the table that these are parts of
                    WHEN c.relkind = 'v' OR c.relname = 'goose_db_version' THEN '{SELECT}'
                    ELSE '{SELECT,INSERT,UPDATE,DELETE}' END::text[] AS may
        FROM pg_class c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v') AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        IF EXISTS (SELECT FROM unnest(t.may) AS p (privilege) WHERE NOT has_table_privilege(app, t.oid, p.privilege)) THEN
            EXECUTE format('GRANT %s ON %s TO %I', array_to_string(t.may, ', '), t.name, app);
        END IF;
        IF EXISTS (SELECT FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,TRIGGER}'::text[]) AS p (privilege)
                   WHERE p.privilege <> ALL (t.may) AND has_table_privilege(app, t.oid, p.privilege)) THEN
            EXECUTE format('REVOKE ALL ON %s FROM %I', t.name, app);
            IF t.may <> '{}' THEN
                EXECUTE format('GRANT %s ON %s TO %I', array_to_string(t.may, ', '), t.name, app);
            END IF;
        END IF;
    END LOOP;
    FOR t IN
        SELECT c.oid::regclass AS name FROM pg_class c
        WHERE CASE WHEN c.relnamespace = current_schema()::regnamespace AND c.relkind = 'S' AND pg_has_role(c.relowner, 'USAGE')
              THEN NOT has_sequence_privilege(app, c.oid, 'USAGE') END
    LOOP
        EXECUTE format('GRANT USAGE ON SEQUENCE %s TO %I', t.name, app);
    END LOOP;
    FOR t IN
        SELECT f.oid::regprocedure AS name FROM pg_proc f
        WHERE f.pronamespace = current_schema()::regnamespace AND f.proname LIKE 'activity\_log\_%'
          AND pg_has_role(f.proowner, 'USAGE') AND NOT has_function_privilege(app, f.oid, 'EXECUTE')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', t.name, app);
    END LOOP;
END $$;
