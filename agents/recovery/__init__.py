"""The reaper, which sends the tasks of dead boots again, and the trimmer of the task topics. Imported by `worker`
alone.
"""
