"""What Ray Serve is given: `serve run ntre_deploy.serving.cluster.app:build`, or a file that names it."""

import os
from collections.abc import Mapping
from typing import Any

from ray import serve

from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines import ENGINE_NAMES, runs_on_gpu
from ntre_deploy.serving.cluster.replica import Replica
from ntre_deploy.serving.cluster.wanted import Wanted

NAME = "Segmentation"
# requests of a replica for each photo that it works on: one waits while the other is being worked on
_ONGOING = 2
# and as many of them as may be there before Serve itself keeps others waiting
_MOST = 8


def build(args: Mapping[str, Any]) -> serve.Application:
    """An application of one deployment, `Segmentation`, whose `user_config` is what was given; see `Wanted`.

    It has one to eight replicas by their load; a configuration file may say otherwise.

    Args:
        args: as of `Wanted`; on the command line, `bundle=FOLDER` is one bundle of its folder's name, and `NAME=VALUE`
            each other one.

    Raises:
        InputError: they cannot be read, or a bundle cannot be opened.
    """
    from ntre_deploy.serving.service import bundle_name

    given = dict(args)
    if isinstance(folder := given.pop("bundle", None), str):
        given["bundles"] = {bundle_name(folder): os.path.abspath(folder)}
    wanted = Wanted.read(given)
    together = wanted.workers * (wanted.batch or 1)
    # told here, where somebody looks
    for path in wanted.bundles.values():
        Bundle.open(path, trusted=list(wanted.trusted) or None)
    gpus = {"num_gpus": 1} if wanted.engine in ENGINE_NAMES and runs_on_gpu(wanted.engine) else {}
    deployment: Any = serve.deployment(Replica, name=NAME)
    deployment = deployment.options(
        user_config=given,
        max_ongoing_requests=_MOST * together,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 8,
            "target_ongoing_requests": _ONGOING * together,
        },
        ray_actor_options={"num_cpus": wanted.workers * (wanted.threads or 1)} | gpus,
        graceful_shutdown_timeout_s=2 * wanted.settings().limits.seconds,
    )
    bound: serve.Application = deployment.bind()
    return bound
