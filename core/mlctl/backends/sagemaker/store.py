"""S3, as far as it is needed: what is there, and how files get there whole."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from mlctl import data
from mlctl.errors import InvalidConfig, RunNotFound, Unavailable, refused

from .aws import Aws

__all__ = ["FRESH", "Store", "split"]

FRESH = timedelta(days=7)
"""What is older is written again by whoever needs it, so that nobody removes it meanwhile: see prune.py."""

_PART = 64 << 20  # bytes: what is larger goes in parts, which S3 shows as one file once all are there


def split(address: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`."""
    bucket, _, key = address.partition("://")[2].partition("/")
    return bucket, key


class Store:
    """Objects by their addresses, with the target's key where it has one. Each method raises what Aws.call does."""

    def __init__(self, aws: Aws, kms_key: str = "") -> None:
        self._aws = aws
        self._sealed = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}

    def _call(self, operation: str, address: str, **parameters: Any) -> dict[str, Any]:
        bucket, key = split(address)
        return self._aws.call("s3", operation, self._aws.region(), Bucket=bucket, Key=key, **parameters)

    def has(self, address: str) -> bool:
        """Whether there is an object of exactly that key."""
        if not split(address)[1]:
            return False
        try:
            self._call("head_object", address)
        except RunNotFound:
            return False
        return True

    def has_below(self, address: str) -> bool:
        """Whether a folder has anything in it."""
        bucket, key = split(address)
        prefix = key.rstrip("/") + "/" if key else ""
        answer = self._aws.call("s3", "list_objects_v2", self._aws.region(), Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return bool(answer.get("KeyCount"))

    def written(self, address: str) -> float:
        """When an object was written, in seconds since 1970; 0 where there is none."""
        try:
            return float(self._call("head_object", address)["LastModified"].timestamp())
        except RunNotFound:
            return 0

    def _fresh(self, address: str) -> bool:
        return self.written(address) > time.time() - FRESH.total_seconds()

    def listed(self, below: str) -> Iterator[tuple[str, float]]:
        """The address of each object below a folder, and when it was written."""
        bucket, prefix = split(below)
        more: dict[str, str] = {}
        while True:
            answer = self._aws.call("s3", "list_objects_v2", self._aws.region(), Bucket=bucket, Prefix=prefix, **more)
            for each in answer.get("Contents", []):
                yield f"s3://{bucket}/{each['Key']}", each["LastModified"].timestamp()
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def remove(self, addresses: Sequence[str]) -> None:
        """Removes objects, one by one: a right to remove is given for each."""
        for address in addresses:
            self._call("delete_object", address)

    def put(self, address: str, text: str) -> None:
        """Writes a short text, unless it is there, and fresh."""
        if not self._fresh(address):
            self._call("put_object", address, Body=text.encode(), **self._sealed)

    def upload(self, source: Path, address: str) -> None:
        """Writes a file, unless it is there, and fresh."""
        if self._fresh(address):
            return
        try:
            if source.stat().st_size > _PART:
                self._parts(source, address)
                return
            with data.opened(source) as stream:
                self._call("put_object", address, Body=stream.read(), **self._sealed)
        except OSError as reason:
            raise refused(source, reason) from None

    def _parts(self, source: Path, address: str) -> None:
        upload = self._call("create_multipart_upload", address, **self._sealed)["UploadId"]
        try:
            done = [
                {"PartNumber": number, **self._part(address, upload, number, block)}
                for number, block in enumerate(_blocks(source), 1)
            ]
            self._call("complete_multipart_upload", address, UploadId=upload, MultipartUpload={"Parts": done})
        except BaseException:
            self._call("abort_multipart_upload", address, UploadId=upload)
            raise

    def _part(self, address: str, upload: str, number: int, block: bytes) -> Mapping[str, str]:
        answer = self._call("upload_part", address, UploadId=upload, PartNumber=number, Body=block)
        return {"ETag": answer["ETag"]}

    def lines(self, address: str) -> Iterator[str]:
        """The lines of a text. Raises RunNotFound where there is none."""
        body = self._call("get_object", address)["Body"]
        try:
            for line in body.iter_lines():
                yield line.decode("utf-8", "replace")
        except Exception as reason:  # botocore's, of a connection that broke
            raise Unavailable(f"{address}: {reason}") from None

    def bucket(self, name: str) -> str:
        """The region of a bucket that these credentials reach. Raises RunNotFound, Unauthorized."""
        answer = self._aws.call("s3", "head_bucket", self._aws.region(), Bucket=name)
        return str(answer.get("BucketRegion") or self._aws.region())

    def checked(self, name: str, fail: Any) -> None:
        """Raises InvalidConfig unless the bucket is there, in the target's region."""
        try:
            region = self.bucket(name)
        except RunNotFound:
            error: InvalidConfig = fail("bucket", f"there is no '{name}'; make it, or name another")
            raise error from None
        if region != self._aws.region():
            raise fail("bucket", f"'{name}' is in {region}, and jobs run in {self._aws.region()}; name one there")


def _blocks(source: Path) -> Iterator[bytes]:
    with data.opened(source) as stream:
        while block := stream.read(_PART):
            yield block
