"""The worker node and the storekeeper: Faust apps that run tasks and store their results. Nobody imports it but
`infra`.
"""
