"""The document: valid, complete, and of exactly the routes that are served (S35)."""

from __future__ import annotations

import re
from uuid import uuid4

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from services.business.app import OPEN_PATHS, _pages, _routes
from services.business.endpoints import INTERNAL, PUBLIC
from services.business.openapi import openapi_document
from services.problems import catalogue
from tests.running_stack import RunningStack
from tests.shopping import business_settings

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
# Served beside the API, to people and orchestrators.
# What access answers itself: test_openapi_access.py.
OF_ACCESS = {"/events", "/live"}
BESIDE = {"/live", "/ready", "/openapi.json", "/problems/{name}", "/pictures/{name}.svg"}


def example(path: str) -> str:
    return re.sub(r"{\w+_id}", str(uuid4()), path).replace("{slug}", "no-such-thing")


def test_the_document_is_valid_openapi() -> None:
    assert list(OpenAPIV31SpecValidator(openapi_document()).iter_errors()) == []


def test_routes_served_are_routes_documented() -> None:
    served = {
        (route.path, method)
        for route in _routes()
        for method in route.methods or ()
        if method != "HEAD"
    }
    internal = {(endpoint.path, endpoint.method) for endpoint in INTERNAL}
    documented = {
        (path, method.upper())
        for path, operations in openapi_document()["paths"].items()
        for method in operations
        if path not in OF_ACCESS
    }
    assert served - internal == documented
    assert not internal & documented
    assert all(path.startswith("/internal/") for path, _ in internal)


def test_what_is_served_beside_the_api_is_known(stack: RunningStack) -> None:
    paths = {route.path for route in _pages(business_settings(stack, docs=False))}
    assert paths == BESIDE
    with_docs = {route.path for route in _pages(business_settings(stack, docs=True))}
    assert with_docs - paths == {"/docs", "/"}
    assert paths >= OPEN_PATHS
    assert all(isinstance(route, Route) for route in _routes())


async def test_every_documented_route_answers_and_every_other_method_is_405(
    http: httpx.AsyncClient,
) -> None:
    for path, operations in openapi_document()["paths"].items():
        if path in OF_ACCESS:
            continue
        allowed = {method.upper() for method in operations}
        allowed |= {"HEAD"} if "GET" in allowed else set()
        for method in METHODS:
            answer = await http.request(method, example(path))
            if method in allowed:
                assert answer.status_code != 405, (method, path)
                assert answer.status_code < 500, (method, path)
            else:
                assert answer.status_code == 405, (method, path)
                assert {m.strip() for m in answer.headers["allow"].split(",")} == allowed


async def test_the_document_is_served_as_it_is(http: httpx.AsyncClient) -> None:
    answer = await http.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == openapi_document()


def test_every_operation_says_what_it_is_and_what_can_go_wrong() -> None:
    ids = []
    paths = openapi_document()["paths"]  # made anew by each call, which takes 40 ms
    for endpoint in PUBLIC:
        operation = paths[endpoint.path][endpoint.method.lower()]
        ids.append(operation["operationId"])
        assert operation["summary"]
        assert {"500", "503", "504"} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            if status >= "400":
                assert list(response["content"]) == ["application/problem+json"]
        if endpoint.body is not None:
            # What is signed is stored as it is, whatever its shape.
            expected = {"400", "413", "415"} | (set() if endpoint.signed else {"422"})
            assert expected <= set(operation["responses"])
        if endpoint.idempotent:
            names = [p["name"] for p in operation["parameters"] if p["required"]]
            assert "Idempotency-Key" in names
            assert "409" in operation["responses"]
        if endpoint.guard in ("customer", "operator"):
            assert "401" in operation["responses"]
            assert operation["security"] == [{endpoint.guard: []}]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("kind", catalogue(), ids=lambda kind: kind.name)
async def test_every_problem_has_its_page(kind: type, http: httpx.AsyncClient) -> None:
    name = kind.name  # type: ignore[attr-defined]  # a Problem
    answer = await http.get(f"/problems/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert name in answer.text


async def test_no_other_problem_has_one(http: httpx.AsyncClient) -> None:
    assert (await http.get("/problems/nothing")).status_code == 404
