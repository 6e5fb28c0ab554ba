"""What only the containers of docker-compose.yml run."""
