"""A run whose worker dies on photos named `deadly`: `deadly.py ADDRESS BUNDLE MEMORY OUT SOURCE`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.segment.cluster import driver
from ntre_deploy.segment.cluster.driver import Cluster
from ntre_deploy.segment.cluster.job import Job
from ntre_deploy.segment.cluster.worker import Worker


# of the script itself, which travels to the workers as it is
class Mortal(Worker):
    """As a decoder does that crashes on a hostile file."""

    def _read(self, photo: str) -> Any:
        if "deadly" in photo:
            os.kill(os.getpid(), signal.SIGKILL)
        return Worker._read(self, photo)


if __name__ == "__main__":
    address, bundle, memory, out, source = sys.argv[1:]
    driver.Worker = Mortal  # type: ignore[misc]
    job = Job(Path(bundle), out, [source], memories=[SupportMemory.load(memory)], cluster=Cluster(address))
    job.prepare()
    told = job.run(lambda photos: None)
    print(told.photos, told.failed)
