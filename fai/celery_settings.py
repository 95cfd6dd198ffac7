"""Celery settings of a volunteer. Redis is a doorbell: the lease in the coordinator's database is what counts.

Each line was measured against losing Redis, half-open links and an account that may only PING and BRPOP.
"""

broker_transport_options = {
    "ack_emulation": False,
    "priority_steps": [0],
    "socket_connect_timeout": 10,
    "socket_timeout": 15,
    "socket_keepalive": True,
    "health_check_interval": 5,
}
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_channel_error_retry = True  # an account that lost its rights raises one of these
accept_content = ["json"]
task_serializer = "json"
task_ignore_result = True
result_backend = None
task_acks_late = True
task_reject_on_worker_lost = False
worker_consumer = "fai.consumer:Consumer"
worker_pool = "threads"
worker_concurrency = 1
worker_prefetch_multiplier = 1
worker_enable_prefetch_count_reduction = False
worker_enable_remote_control = False
worker_send_task_events = False
worker_redirect_stdouts = False
worker_cancel_long_running_tasks_on_connection_loss = False
