"""`tracker doctor`: check that the database fits this version and its load; each finding has a remedy.

It changes nothing and reads only the catalog and statistics, so it may run at any time. A bad finding is a fault that
can lose work or lets a worker do something forbidden; a warning is a fault that costs speed, or that becomes bad later.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache

from rich.table import Table
from rich.text import Text

from tracker.admin import server_health
from tracker.admin.findings import Finding, Level
from tracker.admin.listing import text_table
from tracker.database.database import Connection, query, translated
from tracker.database.enums import LOGINS
from tracker.database.version import function_files, require_head, script
from tracker.errors import SchemaBehind

OWNER = "shoal_owner"
CONFIG = ["search_path=pg_catalog, tracker, pg_temp", "jit=off"]
BODY = re.compile(r"\$\$(.*)\$\$", re.DOTALL)
GRANT = re.compile(r"GRANT EXECUTE ON FUNCTION\s+(.*?)\s+TO\s+(.*?);", re.DOTALL)
MIGRATE = "run tracker migrate"


def examine(connection: Connection) -> list[Finding]:
    """Return all findings, including good ones; without Shoal's schema only those on the server."""
    with translated():
        found = list(server_health.examine_server(connection))
        schema = _schema(connection)
        found.append(schema)
        if schema.level is Level.GOOD:
            found += [*_functions(connection), *_grants(connection), *server_health.examine_tables(connection)]
    return found


def is_healthy(findings: Sequence[Finding]) -> bool:
    return not any(finding.level is Level.BAD for finding in findings)


def _schema(connection: Connection) -> Finding:
    try:
        require_head(connection)
    except SchemaBehind as error:
        return Finding("schema", Level.BAD, str(error), MIGRATE)
    return Finding("schema", Level.GOOD, "the tables are this version's")


def _functions(connection: Connection) -> Iterator[Finding]:
    """Compare the functions in the database with their files."""
    there = connection.execute(query("doctor_functions")).fetchall()
    bodies = {name: match.group(1) for name, text in function_files().items() if (match := BODY.search(text))}
    names = [row["name"] for row in there]
    wrong = [f"function {name} is missing" for name in sorted(bodies.keys() - set(names))]
    for row in there:
        name = row["name"]
        if name not in bodies or names.count(name) > 1:
            wrong.append(f"function {name} differs from this version's, or exists twice")
        elif row["body"] != bodies[name]:
            wrong.append(f"the body of function {name} differs from its file")
        elif not row["definer"] or row["owner"] != OWNER or row["config"] != CONFIG:
            wrong.append(f"function {name} does not run as {OWNER} with a fixed search path")
    for sentence in wrong:
        yield Finding("functions", Level.BAD, sentence, MIGRATE)
    if not wrong:
        yield Finding("functions", Level.GOOD, f"{len(bodies)} functions are the same as their files")


def _grants(connection: Connection) -> Iterator[Finding]:
    """Compare the privileges of the class logins with grants.sql."""
    roles = {row["name"]: row["powers"] for row in connection.execute(query("doctor_roles"), {"logins": list(LOGINS)})}
    there = {
        (row["login"], row["privilege"], row["thing"])
        for row in connection.execute(query("doctor_grants"), {"logins": list(LOGINS)})
    }
    wrong = [f"the login {login} is missing" for login in LOGINS if login not in roles]
    wrong += [f"{login} has an admin's powers" for login, powers in sorted(roles.items()) if powers]
    meant = {(login, "EXECUTE", name) for login, name in granted() if login in roles}
    wrong += [f"{login} may not {what} {thing}" for login, what, thing in sorted(meant - there)]
    for sentence in wrong:
        yield Finding("grants", Level.BAD, sentence, MIGRATE)
    for login, what, thing in sorted(there - meant):
        yield Finding(
            "grants", Level.BAD, f"{login} has {what} on {thing}, which is not its own", _revocation(login, what, thing)
        )
    if not wrong and there == meant:
        yield Finding("grants", Level.GOOD, f"{len(LOGINS)} logins may execute their functions, and nothing else")


@cache
def granted() -> frozenset[tuple[str, str]]:
    """Return the pairs of login and function of grants.sql."""
    text = re.sub(r"--.*", "", script("grants.sql"))
    return frozenset(
        (login.strip(), function.strip().removeprefix("tracker."))
        for functions, logins in GRANT.findall(text)
        for function in functions.split(",")
        for login in logins.split(",")
    )


def _revocation(login: str, privilege: str, thing: str) -> str:
    match privilege:
        case "MEMBER":
            return f"REVOKE {thing} FROM {login}"
        case "EXECUTE":
            return f"REVOKE EXECUTE ON FUNCTION tracker.{thing} FROM {login}, PUBLIC"
        case _ if thing == "the database":
            return MIGRATE
        case _:
            return f"REVOKE {privilege} ON tracker.{thing} FROM {login}, PUBLIC"


def render(findings: Sequence[Finding]) -> Table:
    table = text_table("", "what", "found")
    colours = {Level.GOOD: "green", Level.WARNING: "yellow", Level.BAD: "red"}
    for finding in findings:
        level = Text(finding.level.value, style=colours[finding.level])
        found = f"{finding.said}\n→ {finding.remedy}" if finding.remedy else finding.said
        table.add_row(level, Text(finding.what), Text(found))
    return table
