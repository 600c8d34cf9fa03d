"""What the test of the OpenAPI document asks beyond what schemathesis does itself."""

import schemathesis


@schemathesis.check
def no_fault_of_the_server(ctx, response, case):
    """No answer is a fault; a 503 is none when it says when to come again."""
    if response.status_code == 503 and response.headers.get("retry-after"):
        return
    assert response.status_code < 500, f"{response.status_code} is a fault of the server"


@schemathesis.check
def every_answer_has_an_id(ctx, response, case):
    """Who asks for help can name the call."""
    assert response.headers.get("x-request-id"), "no X-Request-Id"
    if response.status_code >= 400:
        assert response.json()["requestId"] == response.headers["x-request-id"][0], "another requestId in the problem"
        assert response.json()["status"] == response.status_code, "another status in the problem"
