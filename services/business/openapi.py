"""The OpenAPI 3.1 document, made from the route table and the models, and the page about it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services import problems
from services.business import openapi_access
from services.business.endpoints import PUBLIC, Endpoint
from services.business.schemas import ProblemDocument
from services.problems import PROBLEM_JSON, Problem, catalogue

TEMPLATES: Final = Path(__file__).parent / "templates"
# What every route can answer, whatever it does.
USUAL: Final = (
    problems.InvalidRequest,
    problems.InternalError,
    problems.Unavailable,
    problems.GatewayTimeout,
)
# What a route can answer that writes: its body may be late, its COMMIT may lose its answer.
WRITING: Final = (problems.RequestTimeout, problems.OutcomeUnknown)
# Routes to what belongs to a customer.
OWN: Final = ("customer", "optional customer")
SEEN_BEFORE: Final = (
    "The newest one that was answered: nothing older than what that answer showed is shown. "
    "Browsers have it in cookies."
)
SEEN_NOW: Final = "What was written or shown by this answer; to be sent with the next request."
PARAMETER: Final = re.compile(r"{(\w+)}")
SCHEMA_REF: Final = "#/components/schemas/{model}"


def openapi_document(endpoints: tuple[Endpoint, ...] = PUBLIC) -> dict[str, Any]:
    """The document of the routes that clients reach through access, and of its own answers."""
    schemas = _schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    paths |= openapi_access.paths({model.__name__: _ref(model) for model in openapi_access.MODELS})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tercet",
            "version": "0.1.0",
            "description": "A three-tier shop: product pages, orders, payments.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "customer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a guest's customer_token, a session's token, or a cookie",
                },
                "account": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "token of a session, or its cookie",
                },
                "merchant": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "the same, of who keeps the shop",
                },
                "operator": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "the same, of who runs it",
                },
            },
        },
    }


def document_bytes() -> bytes:
    return orjson.dumps(openapi_document())


def docs_page() -> str:
    """The document as a page for people, without a script or anything from elsewhere."""
    document = openapi_document()
    template = _environment().get_template("docs.html.j2")
    return template.render(document=document, problems=catalogue(), groups=_groups(document))


def problem_page(kind: type[Problem]) -> str:
    """What a problem type means: the page its `type` leads to."""
    return _environment().get_template("problem.html.j2").render(problem=kind)


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True)


def _groups(document: dict[str, Any]) -> list[tuple[str, list[tuple[str, str, dict[str, Any]]]]]:
    """Operations by the first part of their path."""
    groups: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups.setdefault(path.split("/")[1], []).append((method.upper(), path, operation))
    return list(groups.items())


def _schemas(endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    models: dict[type[BaseModel], None] = {ProblemDocument: None}
    for endpoint in endpoints:
        models |= {model: None for model in endpoint.answers.values() if model is not None}
    models |= dict.fromkeys(openapi_access.MODELS)
    modes = [(model, "serialization") for model in models]
    modes += [(e.body, "validation") for e in endpoints if e.body is not None]
    _, definitions = models_json_schema(modes, ref_template=SCHEMA_REF)  # type: ignore[arg-type]  # a list of literals
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas | openapi_access.event_schemas()


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.operation_id,
        "summary": endpoint.summary,
        "parameters": _parameters(endpoint),
        "responses": _responses(endpoint),
    }
    if endpoint.body is not None:
        schema = _ref(endpoint.body)
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    if endpoint.guard in ("customer", "account", "merchant", "operator"):
        operation["security"] = [{endpoint.guard: []}]
    elif endpoint.guard == "optional customer":
        operation["security"] = [{"customer": []}, {}]
    return operation


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    parameters = [
        _parameter("path", name, _path_schema(name)) for name in PARAMETER.findall(endpoint.path)
    ]
    if endpoint.query is not None:
        properties = endpoint.query.model_json_schema()["properties"]
        for name, schema in properties.items():
            described = {k: v for k, v in schema.items() if k not in ("title", "description")}
            parameter = _parameter("query", name, _without_null(described), required=False)
            parameters.append(parameter | {"description": schema.get("description", "")})
    if endpoint.idempotent:
        schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
        parameters.append(_parameter("header", "Idempotency-Key", schema))
    if endpoint.signed:
        parameters += [
            _parameter("header", "webhook-id", {"type": "string", "pattern": "^[!-~]{1,255}$"}),
            _parameter("header", "webhook-timestamp", {"type": "string", "pattern": "^[0-9]+$"}),
            _parameter("header", "webhook-signature", {"type": "string", "pattern": "^v1,"}),
        ]
    if endpoint.guard in OWN:
        schema = {"type": "string"}
        parameter = _parameter("header", "Consistency-Token", schema, required=False)
        parameters.append(parameter | {"description": SEEN_BEFORE})
    if endpoint.page:
        schema = {"type": "string"}
        parameters.append(_parameter("header", "If-None-Match", schema, required=False))
    return parameters


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or not; it is never null."""
    choices = [choice for choice in schema.pop("anyOf", []) if choice.get("type") != "null"]
    if schema.get("default", "") is None:
        del schema["default"]
    return schema | (choices[0] if choices else {})


def _parameter(
    place: str, name: str, schema: dict[str, Any], *, required: bool = True
) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema}


def _path_schema(name: str) -> dict[str, Any]:
    if name.endswith("_id"):
        return {"type": "string", "format": "uuid"}
    return {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$", "maxLength": 200}


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, model in endpoint.answers.items():
        if model is None:
            responses[str(status)] = {"description": "Done; there is nothing to say."}
            continue
        responses[str(status)] = {
            "description": model.__doc__ or model.__name__,
            "content": {"application/json": {"schema": _ref(model)}},
        }
        if endpoint.guard in OWN:
            field = {"description": SEEN_NOW, "schema": {"type": "string"}}
            responses[str(status)]["headers"] = {"Consistency-Token": field}
    if endpoint.page:
        responses["304"] = {"description": "What If-None-Match names is still what is here."}
    for status, kinds in _problems_by_status(endpoint).items():
        responses[str(status)] = {
            "description": "; ".join(f"{kind.name}: {kind.title}" for kind in kinds),
            "content": {PROBLEM_JSON: {"schema": _ref(ProblemDocument)}},
        }
    return dict(sorted(responses.items()))


def _problems_by_status(endpoint: Endpoint) -> dict[int, list[type[Problem]]]:
    kinds: list[type[Problem]] = [
        *endpoint.problems,
        *USUAL,
        problems.TooManyRequests,
        problems.BadGateway,
    ]
    if endpoint.method != "GET":
        kinds += WRITING
        if not endpoint.signed:
            kinds.append(problems.CrossSiteRequest)
    if endpoint.guard != "nobody":
        kinds.append(problems.Unauthenticated)
    if endpoint.guard in ("account", "merchant", "operator"):
        kinds.append(problems.Forbidden)
    by_status: dict[int, list[type[Problem]]] = {}
    for kind in dict.fromkeys(kinds):
        by_status.setdefault(kind.status, []).append(kind)
    return by_status


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": SCHEMA_REF.format(model=model.__name__)}
