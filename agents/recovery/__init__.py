"""The reaper, which replays what dead nodes held, and the trimmer of the task topics. Imported by `worker` alone."""
