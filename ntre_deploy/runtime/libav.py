"""PyAV, which decodes and encodes videos and streams; optional, and asked for when a video or stream is met."""

from types import ModuleType

from ntre_deploy.errors import EngineError


def libav() -> ModuleType:
    """The package `av`, silent: what FFmpeg has to say comes as one line of ours.

    Raises:
        EngineError: it is not installed, or does not load.
    """
    try:
        import av
        import av.logging
    except ModuleNotFoundError as error:
        raise EngineError(
            "Videos and streams need PyAV (av), which is not installed: pip install 'ntre_deploy[video]'"
        ) from error
    except ImportError as error:
        raise EngineError(f"PyAV (av) does not load ({error}): pip install --force-reinstall av") from error
    av.logging.set_level(None)
    return av


def reason(error: BaseException) -> str:
    """What an error of FFmpeg says, without its number and without the file, which the caller names."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).rstrip(".")
