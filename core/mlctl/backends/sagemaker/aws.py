"""Calls to AWS, and what their errors mean: the one place where botocore's exceptions become ours."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any, NoReturn

from mlctl.backend import Settings
from mlctl.errors import (
    InvalidConfig,
    MlctlError,
    RunNotFound,
    Unauthorized,
    Unavailable,
    did_you_mean,
)

__all__ = ["Aws", "Taken"]

_THROTTLED = re.compile(
    r"Throttl|TooManyRequests|RequestLimitExceeded|SlowDown|LimitExceededException|RequestTimeout\Z"
)
_FORBIDDEN = re.compile(
    r"AccessDenied|UnauthorizedOperation|Forbidden|403|UnrecognizedClient|InvalidClientTokenId|InvalidAccessKeyId"
    r"|MissingAuthenticationToken|OptInRequired|NotAuthorized|AuthFailure"
)
_EXPIRED = re.compile(r"ExpiredToken|RequestExpired|TokenRefreshRequired")
_SKEWED = re.compile(r"RequestTimeTooSkewed|InvalidSignature|SignatureDoesNotMatch")
_ABSENT = re.compile(r"ResourceNotFound|NoSuchKey|404|NotFound|NoSuchEntity")
_NOT_FOUND = re.compile(r"requested resource not found|could not find requested job", re.IGNORECASE)
_QUOTA = re.compile(r"is (\d+) Instances.*?utilization of (\d+).*?delta of (\d+)", re.DOTALL)
_SETTINGS = (  # what a message of SageMaker's is about -> the setting to change; the first that matches
    (r"rolearn|assume.{0,10}role|\brole\b|passrole", "role"),
    (r"instancetype|instance type", "instance_type"),
    (r"bucket|s3outputpath", "bucket"),
    (r"kms", "kms_key"),
    (r"subnet|security group|vpc", "vpc"),
    (r"trainingimage|imageuri|\becr\b", "image"),
    (r"volumesize", "volume"),
    (r"tag", "tags"),
)


CONNECT, READ = 10, 60  # seconds that a connection, and an answer, may take


class Taken(MlctlError):
    """The name of a job is taken."""


class Aws:
    """Clients of one target, made when they are first used and kept; made anew once when a token has expired."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[tuple[str, str], Any] = {}
        self._account = ""

    def session(self) -> Any:
        """botocore's session, of the target's `profile` or of what botocore finds by itself."""
        from botocore.session import Session

        with self._lock:
            if self._session is None:
                made = Session(profile=self._settings.values.get("profile"))
                made.register_component("data_loader", _loader())
                with self._translated(""):
                    made.get_scoped_config()  # which raises for a profile that isn't there
                self._session = made
            return self._session

    def region(self) -> str:
        """The target's region, or the environment's. Raises InvalidConfig for none, and for one that has no SageMaker."""
        session = self.session()
        region = self._settings.values.get("region") or session.get_config_variable("region")
        if not region:
            raise self._settings.fail(
                "region", "there is none; set it here, in AWS_DEFAULT_REGION, or in the AWS profile"
            )
        known = [name for part in session.get_available_partitions() for name in self._regions(session, part)]
        if region not in known:
            near = did_you_mean(region, known) or "; a newer boto3 may know it"
            raise self._settings.fail("region", f"got '{region}', where boto3 knows no SageMaker{near}")
        return str(region)

    @staticmethod
    def _regions(session: Any, partition: str) -> list[str]:
        return list(session.get_available_regions("sagemaker", partition_name=partition))

    def account(self) -> str:
        """The account of these credentials, twelve digits."""
        if not self._account:
            self._account = str(self.call("sts", "get_caller_identity", self.region())["Account"])
        return self._account

    def client(self, service: str, region: str) -> Any:
        """A client, made once."""
        from botocore.config import Config

        session = self.session()
        with self._lock:
            if (service, region) not in self._clients:
                config = Config(
                    retries={"mode": "standard", "max_attempts": 3}, connect_timeout=CONNECT, read_timeout=READ,
                    user_agent_extra="mlctl",
                )  # fmt: skip
                self._clients[service, region] = session.create_client(service, region_name=region, config=config)
            return self._clients[service, region]

    def call(self, service: str, operation: str, region: str, **parameters: Any) -> dict[str, Any]:
        """One call; a token that has expired is fetched anew, once.

        Raises Taken, RunNotFound for what isn't there, Unavailable, Unauthorized, and InvalidConfig that names a setting.
        """
        for last in (False, True):
            with self._translated(operation):
                try:
                    answer: dict[str, Any] = getattr(self.client(service, region), operation)(**parameters)
                    return answer
                except Exception as reason:
                    if last or not _EXPIRED.search(_code(reason)):
                        raise
                    self._forget()
        raise AssertionError("unreachable")

    def _forget(self) -> None:
        with self._lock:
            self._session, self._clients, self._account = None, {}, ""

    @contextlib.contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        from botocore import exceptions as known

        try:
            yield
        except known.ClientError as reason:
            self._refused(operation, reason)
        except known.ProfileNotFound as reason:
            raise self._settings.fail(
                "profile", f"{reason}; aws configure list-profiles shows those there are"
            ) from None
        except (known.NoCredentialsError, known.PartialCredentialsError, known.CredentialRetrievalError,
                known.UnauthorizedSSOTokenError, known.TokenRetrievalError, known.SSOTokenLoadError) as reason:  # fmt: skip
            raise Unauthorized(
                f"{reason}; log in (aws sso login), or set targets.{self._settings.target}.profile"
            ) from None
        except known.EndpointConnectionError as reason:
            raise Unavailable(f"{reason}; is targets.{self._settings.target}.region right?") from None
        except (known.ParamValidationError, known.InvalidRegionError) as reason:
            raise InvalidConfig(f"{operation}: {' '.join(str(reason).split())}") from None
        except (known.BotoCoreError, OSError) as reason:  # the network's: timeouts, closed connections, TLS
            raise Unavailable(f"{operation}: {reason}") from None

    def _refused(self, operation: str, reason: Any) -> NoReturn:
        """What an answer of AWS's that is an error means. A message keeps AWS's own words."""
        code, target = _code(reason), self._settings.target
        error = reason.response.get("Error", {})
        text = f"{operation}: {error.get('Message') or code}"
        status = reason.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "ResourceInUse":
            raise Taken(text) from None
        if code == "ResourceLimitExceeded":
            raise self._quota(text) from None
        if _EXPIRED.search(code):
            raise Unauthorized(f"{text}; log in again (aws sso login), targets.{target}.profile says as whom") from None
        if _SKEWED.search(code):
            raise Unauthorized(
                f"{text}; set this machine's clock, or look at the credentials of targets.{target}.profile"
            )
        if _THROTTLED.search(code) or status == 429 or status >= 500:
            raise Unavailable(f"{text}; AWS is busy, try again later") from None
        if _FORBIDDEN.search(code) or status in (401, 403):
            text += f"; targets.{target}.profile needs that permission: docs/sagemaker.md has the policy"
            raise Unauthorized(text) from None
        if code == "NoSuchBucket":
            raise self._settings.fail("bucket", f"{text}; make it, or name another") from None
        if _ABSENT.search(code) or _NOT_FOUND.search(text):
            raise RunNotFound(text) from None
        name = next((name for pattern, name in _SETTINGS if re.search(pattern, text, re.IGNORECASE)), "")
        raise (self._settings.fail(name, text) if name else InvalidConfig(f"targets.{target}: {text}")) from None

    def _quota(self, text: str) -> MlctlError:
        """Never to be had where the quota is smaller than what one job asks for; else later."""
        found = _QUOTA.search(text)
        if found and int(found[3]) > int(found[1]):
            return self._settings.fail("instance_type", f"{text}; ask for a higher quota, or choose another type")
        return Unavailable(f"{text}; others use it: try later, or change targets.{self._settings.target}.instance_type")


@cache
def _loader() -> Any:
    """One for all: it keeps the models that it read, of which SageMaker's takes a third of a second."""
    from botocore.loaders import create_loader

    return create_loader()


def _code(reason: Any) -> str:
    answer = getattr(reason, "response", None) or {}  # None where the connection broke
    return str(answer.get("Error", {}).get("Code", ""))
