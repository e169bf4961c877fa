"""Where pictures come from: photos, folders, patterns, videos, cameras, streams and lists; frames come out."""
