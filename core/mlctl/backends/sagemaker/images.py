"""Container images of AWS's own, by framework and version: the part of the SageMaker SDK's published table that is worth
having without its 1.2 GB: as sagemaker-core 2.27 has it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mlctl.errors import did_you_mean

__all__ = ["FRAMEWORKS", "PYTHONS", "framework", "is_address", "of_python"]

_PLAIN: Mapping[str, str] = {
    "af-south-1": "510948584623", "ap-east-1": "651117190479", "ap-northeast-1": "354813040037",
    "ap-northeast-2": "366743142698", "ap-northeast-3": "867004704886", "ap-south-1": "720646828776",
    "ap-south-2": "628508329040", "ap-southeast-1": "121021644041", "ap-southeast-2": "783357654285",
    "ap-southeast-3": "951798379941", "ap-southeast-4": "106583098589", "ca-central-1": "341280168497",
    "ca-west-1": "190319476487", "cn-north-1": "450853457545", "cn-northwest-1": "451049120500",
    "eu-central-1": "492215442770", "eu-central-2": "680994064768", "eu-north-1": "662702820516",
    "eu-south-1": "978288397137", "eu-south-2": "104374241257", "eu-west-1": "141502667606",
    "eu-west-2": "764974769150", "eu-west-3": "659782779980", "il-central-1": "898809789911",
    "me-central-1": "272398656194", "me-south-1": "801668240914", "sa-east-1": "737474898029",
    "us-east-1": "683313688378", "us-east-2": "257758044811", "us-gov-east-1": "237065988967",
    "us-gov-west-1": "414596584902", "us-west-1": "746614075791", "us-west-2": "246618743249",
}  # fmt: skip
"""Region -> the account that has scikit-learn's and XGBoost's images."""

_DEEP: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "ap-northeast-1", "ap-northeast-2", "ap-south-1", "ap-southeast-1", "ap-southeast-2", "ca-central-1",
            "eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2", "eu-west-3", "sa-east-1", "us-east-1", "us-east-2",
            "us-west-1", "us-west-2",
        ),
        "763104351884",
    ),
    "af-south-1": "626614931356", "ap-east-1": "871362719292", "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452", "ap-southeast-3": "907027046896", "ap-southeast-4": "457447274322",
    "ca-west-1": "204538143572", "cn-north-1": "727897471807", "cn-northwest-1": "727897471807",
    "eu-central-2": "380420809688", "eu-south-1": "692866216735", "eu-south-2": "503227376785",
    "il-central-1": "780543022126", "me-central-1": "914824155844", "me-south-1": "217643126080",
    "us-gov-east-1": "446045086412", "us-gov-west-1": "442386744353",
    "ap-east-2": "975050140332", "ap-southeast-5": "550225433462", "ap-southeast-6": "633930458069",
    "ap-southeast-7": "590183813437", "mx-central-1": "637423239942",
}  # fmt: skip
"""Region -> the account that has the deep learning containers."""

FRAMEWORKS: Mapping[str, tuple[Mapping[str, str], str, Mapping[str, str]]] = {
    "sklearn": (
        _PLAIN,
        "sagemaker-scikit-learn",
        {"1.9": "1.9-0-cpu-py3", "1.4": "1.4-2-cpu-py3", "1.2": "1.2-1-cpu-py3", "1.0": "1.0-1-cpu-py3", "0.23": "0.23-1-cpu-py3"},
    ),
    "xgboost": (_PLAIN, "sagemaker-xgboost", {"3.2": "3.2-0", "3.0": "3.0-5", "1.7": "1.7-1", "1.5": "1.5-1"}),
    "pytorch": (
        _DEEP,
        "pytorch-training",
        {
            "2.10": "2.10.0-{device}-py313", "2.9": "2.9.0-{device}-py312", "2.8": "2.8.0-{device}-py312",
            "2.7": "2.7.1-{device}-py312", "2.6": "2.6.0-{device}-py312", "2.5": "2.5.1-{device}-py311",
            "2.4": "2.4.0-{device}-py311", "2.3": "2.3.0-{device}-py311", "2.2": "2.2.0-{device}-py310",
            "2.1": "2.1.0-{device}-py310", "2.0": "2.0.1-{device}-py310",
        },
    ),
    "tensorflow": (
        _DEEP,
        "tensorflow-training",
        {
            "2.19": "2.19.0-{device}-py312", "2.18": "2.18.0-{device}-py310", "2.16": "2.16.2-{device}-py310",
            "2.14": "2.14.1-{device}-py310",
        },
    ),
}  # fmt: skip
"""Framework -> accounts, repository, and the tag of each version, by its first two numbers."""

PYTHONS: Mapping[str, str] = {
    "3.12": "pytorch==2.8",
    "3.11": "pytorch==2.5",
    "3.10": "pytorch==2.2",
    "3.13": "pytorch==2.10",
}
"""Python -> an image that has it, for jobs that name no image; the first is for jobs that name no Python either."""

_ASKED = re.compile(r"([a-z]+)==(\d+\.\d+)(?:\.\d+)?")


def is_address(image: str) -> bool:
    """Whether it is the address of an image in a registry of AWS's, the only ones that SageMaker pulls from."""
    return bool(re.fullmatch(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/[^\s:@]+([:@]\S+)?", image))


def framework(image: str, region: str, gpu: bool) -> str:
    """The address of `sklearn==1.4` and its like. Raises ValueError with what there is."""
    found = _ASKED.fullmatch(image)
    if not found:
        raise ValueError(
            "expected an address in ECR such as 123456789012.dkr.ecr.REGION.amazonaws.com/NAME:TAG, "
            f"or a framework such as sklearn==1.4 ({', '.join(FRAMEWORKS)})"
        )
    name, version = found[1], found[2]
    if name not in FRAMEWORKS:
        raise ValueError(f"no framework of that name{did_you_mean(name, FRAMEWORKS) or ': ' + ', '.join(FRAMEWORKS)}")
    accounts, repository, tags = FRAMEWORKS[name]
    if version not in tags:
        raise ValueError(f"{name} is known in {', '.join(tags)}; give the image's whole address for another")
    if region not in accounts:
        raise ValueError(f"AWS's account for {name} in {region} is not known here; give the image's whole address")
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    tag = tags[version].format(device="gpu" if gpu else "cpu")
    return f"{accounts[region]}.dkr.ecr.{region}.{domain}/{repository}:{tag}"


def of_python(python: str, region: str, gpu: bool) -> str:
    """An image with that Python ("" for any). Raises ValueError with what there is."""
    version = ".".join((python or next(iter(PYTHONS))).split(".")[:2])
    if version not in PYTHONS:
        raise ValueError(f"there is an image for Python {', '.join(PYTHONS)}; for another give image:")
    return framework(PYTHONS[version], region, gpu)
